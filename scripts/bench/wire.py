"""Bench `wire`: a state to a message and back, against Flower's records from and to torch.

Ours also checks every tensor's name, dtype, shape and finiteness on arrival.
"""

from collections.abc import Iterator, Sequence

from flwr.app import ArrayRecord, RecordDict

from common.models.transunet import PresetName
from common.wire.payload import payload_bytes
from common.wire.records import WEIGHTS, pack, unpack_weights
from scripts.bench.full_size import full_size, largest_difference, numbers, reply, sample
from scripts.bench.measure import Facts, Record, Stopwatch, Work, compare, record

DTYPES = ("float32", "float16", "bfloat16")


def run(
    *,
    dtypes: Sequence[str] = DTYPES,
    preset: PresetName = "r50-vit-b16",
    repeats: int = 5,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record for each wire dtype; the reference always sends float32.

    Args:
        dtypes: Of the wire.
        preset: Size of the state.
        repeats: Of each way.
        seed: Of the state.
        fresh: Each way in a process of its own.
    """
    specs = full_size(preset)
    for dtype in dtypes:
        ours, reference = compare(
            checked, flower, repeats=repeats, fresh=fresh, ours_only={"dtype": dtype},
            preset=preset, seed=seed,
        )  # fmt: skip
        yield record(
            f"wire {dtype}", ours, reference,
            wire_mb=payload_bytes(specs, dtype) / 1e6,
            reference_wire_mb=payload_bytes(specs, "float32") / 1e6,
            parameters=numbers(specs), repeats=repeats, seed=seed,
            max_difference=largest_difference(ours.facts["state"], reference.facts["state"]),
        )  # fmt: skip


def checked(*, preset: PresetName, seed: int, dtype: str) -> Work:
    """Ours, both ways."""
    specs = full_size(preset)
    state = reply(specs, 0, seed)

    def work() -> tuple[float, Facts]:
        with Stopwatch() as watch:
            content = pack(weights=state, specs=specs, wire_dtype=dtype)
            arrived = unpack_weights(content, specs, dtype)
        return watch.seconds, {"state": sample([tensor.numpy() for tensor in arrived.values()])}

    return work


def flower(*, preset: PresetName, seed: int) -> Work:
    """Flower's own, both ways; it knows no bfloat16 and checks nothing."""
    state = reply(full_size(preset), 0, seed)

    def work() -> tuple[float, Facts]:
        with Stopwatch() as watch:
            content = RecordDict({WEIGHTS: ArrayRecord.from_torch_state_dict(state)})
            arrived = content.array_records[WEIGHTS].to_torch_state_dict()
        return watch.seconds, {"state": sample([tensor.numpy() for tensor in arrived.values()])}

    return work
