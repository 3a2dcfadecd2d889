"""Bench `gate`: what the gate costs, in a simulation and as a process before a real SuperNode.

In a simulation: a reply of the full-size network through the gate's policy, and the same without.
Both ways pack, serialise, parse and unpack, as engines with processes do. Ours also decodes,
hashes, judges, holds the update against what came in, writes the ledger, and builds it anew.
And the whole demo, of which the gate's part is counted (`scripts/bench/gate_study.py`).

As a process (`scripts/bench/gate_round.py`): a whole round of Flower's real processes through gate
and nginx, and straight to the SuperLink, both over TLS on loopback; at a quarter of the size too,
which shows that the gate's memory does not grow with it.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import Message, Metadata, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from clients.exchanges import exchange_of
from clients.gate.book import Book
from clients.gate.facts import InstructionFacts, exchange_name
from clients.gate.manifest import Manifest
from clients.gate.payload import read_reply, write_reply
from clients.gate.policy import Policy, judge
from clients.gate.rules import Bundles, PolicyFile, Rule, StageRules, StudyEntry
from common.models.transunet import PresetName
from common.wire.crossing import Crossing
from common.wire.payload import payload_bytes
from common.wire.records import pack, unpack_weights
from common.wire.vocabulary import LOSS, SOME, TensorSpec
from scripts.bench.full_size import full_size, largest_difference, numbers, reply, sample
from scripts.bench.gate_round import Shape, measure
from scripts.bench.gate_study import DEMO, share_of_a_study
from scripts.bench.measure import Facts, Record, Stopwatch, Work, compare, record
from server.receipts import take_letter

METRICS = {"examples": SOME, "loss": LOSS}
TOLD: dict[str, float | int] = {"examples": 100, "loss": 0.5}


def run(
    *,
    preset: PresetName = "r50-vit-b16",
    repeats: int = 5,
    seed: int = 0,
    fresh: bool = True,
    shares: tuple[float, ...] = (0.25, 1.0),
    study_file: Path | None = DEMO,
) -> Iterator[Record]:
    """Yields one record for the policy alone, one for a study, one for each size of a real round.

    Args:
        preset: Size of the network.
        repeats: Of each way.
        seed: Of the weights.
        fresh: Each way in a process of its own.
        shares: Parts of the network's tensors that a real round carries.
        study_file: Study of which the gate's part is measured; None: of none.
    """
    specs = full_size(preset)
    ours, reference = compare(
        gated, direct, repeats=repeats, fresh=fresh, preset=preset, seed=seed
    )  # fmt: skip
    yield record(
        "gate in a simulation", ours, reference,
        wire_mb=payload_bytes(specs, "float32") / 1e6, parameters=numbers(specs),
        repeats=repeats, seed=seed,
        gate_seconds=float(ours.facts["gate"]),
        max_difference=largest_difference(ours.facts["state"], reference.facts["state"]),
    )  # fmt: skip

    if study_file is not None:
        yield share_of_a_study(study_file, seed=seed)
    for share in shares:
        yield round_of(_part(specs, share), repeats=repeats, seed=seed)


def round_of(tensors: Mapping[str, Shape], *, repeats: int, seed: int) -> Record:
    """A round through the gate against one without; seconds of the clock."""
    found = measure(tensors, rounds=repeats + 1, seed=seed)
    return {
        "name": f"gate, a round of {4 * _numbers(tensors) / 1e6:.0f} MB each way",
        "ours": found.median("gated"),
        "reference": found.median("direct"),
        "unit": "s",
        "peak_rss_mb": found.gate_peak_mb,
        "parameters": _numbers(tensors),
        "tensors": len(tensors),
        "repeats": repeats,
        "all": _listed(found.seconds["gated"]),
        "reference_all": _listed(found.seconds["direct"]),
    }


def _listed(seconds: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in seconds)


def _part(specs: Sequence[TensorSpec], share: float) -> dict[str, Shape]:
    """The first tensors, up to a share of all numbers."""
    found: dict[str, Shape] = {}
    for spec in specs:
        if _numbers(found) >= share * numbers(specs):
            break
        found[spec.name] = spec.shape
    return found


def _numbers(tensors: Mapping[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in tensors.values())


def gated(*, preset: PresetName, seed: int) -> Work:
    """A reply through the gate."""
    folder = Path(tempfile.mkdtemp(prefix="gate-"))
    return _way(preset, seed, _Gate(preset, folder))


def direct(*, preset: PresetName, seed: int) -> Work:
    """The same reply without a gate."""
    return _way(preset, seed, None)


def _way(preset: PresetName, seed: int, gate: "_Gate | None") -> Work:
    specs = full_size(preset)
    asked = _message(pack(weights=reply(specs, 0, seed), specs=specs))
    state = reply(specs, 1, seed)

    def work() -> tuple[float, Facts]:
        passing = Stopwatch()
        with Stopwatch() as watch:
            content = pack(weights=state, specs=specs, metrics=TOLD)
            sent = message_to_proto(Message(content, reply_to=asked)).SerializeToString()
            arrived = message_from_proto(ProtoMessage.FromString(sent))
            if gate is not None:
                with passing:
                    arrived = gate.through(asked, arrived)
                take_letter(arrived.content)
            weights = unpack_weights(arrived.content, specs, "float32")
        facts = {"state": sample([tensor.numpy() for tensor in weights.values()])}
        return watch.seconds, {**facts, "gate": passing.seconds}

    return work


class _Gate:
    """A policy that knows one message, and a ledger."""

    def __init__(self, preset: PresetName, folder: Path) -> None:
        specs = full_size(preset)
        exchange = exchange_of(Crossing(specs, specs, METRICS), "float32")
        name = exchange_name("train.mim", "mim/mim")
        anything = {"*": Rule()}
        file = PolicyFile(
            site="west",
            studies={"bench": StudyEntry(manifest="bench.json", sha256="0" * 64)},
            stages={"mim": StageRules(update_norm=10.0)},
            metrics=anything,
            study=anything,
            bundles=Bundles(any=True),
        )
        self.policy = Policy(file, {"bench": Manifest(exchanges={name: exchange})})
        self.asked = InstructionFacts("train.mim", {"name": "bench"}, "0" * 64, "mim/mim")
        self.folder = folder

    def through(self, asked: Message, arrived: Message) -> Message:
        """Decode, judge, write down, build anew."""
        facts = read_reply(arrived, asked)
        instruction = InstructionFacts(
            self.asked.message, self.asked.study, self.asked.study_digest, self.asked.training,
            tensors=facts.tensors,
        )  # fmt: skip
        verdict = judge(self.policy, instruction, facts)
        assert verdict.passes, verdict.why
        with Book(self.folder, "west", "bench") as book:
            line = book.reply(instruction, facts, 0)
            return write_reply(arrived, facts, asked, book.letter(line))


def _message(content: RecordDict) -> Message:
    metadata = Metadata(
        run_id=1, message_id="1", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="mim/mim/1", created_at=time.time(), ttl=3600.0, message_type="train.mim",
    )  # fmt: skip
    message: Message = Message(metadata=metadata, content=content)  # type: ignore[call-overload]
    return message
