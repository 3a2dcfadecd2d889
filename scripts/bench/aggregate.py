"""Bench `aggregate`: the mean of the sites' replies, one at a time against Flower's own.

Ours is what the server does: decode a reply and check every tensor's name, dtype, shape and
finiteness, add it to the running mean, let it go. Flower's `aggregate_arrayrecords` (its FedAvg)
takes all replies at once and checks nothing. Making the replies counts for neither.
"""

from collections.abc import Iterator, Sequence

from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from common.models.transunet import PresetName
from common.wire.records import pack, unpack_weights
from scripts.bench.full_size import full_size, largest_difference, numbers, reply, sample
from scripts.bench.measure import Facts, Record, Stopwatch, Work, compare, record
from server.aggregation import RunningMean

EXAMPLES = "num-examples"


def run(
    *,
    replies: Sequence[int] = (2, 4, 8),
    preset: PresetName = "r50-vit-b16",
    repeats: int = 3,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record for each number of replies.

    Args:
        replies: Numbers of sites.
        preset: Size of a reply.
        repeats: Of each way.
        seed: Of the replies.
        fresh: Each way in a process of its own.
    """
    parameters = numbers(full_size(preset))
    for count in replies:
        ours, reference = compare(
            one_at_a_time, flower, repeats=repeats, fresh=fresh,
            preset=preset, replies=count, seed=seed,
        )  # fmt: skip
        yield record(
            f"aggregate {count} replies", ours, reference,
            replies=count, parameters=parameters, repeats=repeats, seed=seed,
            max_difference=largest_difference(ours.facts["mean"], reference.facts["mean"]),
        )  # fmt: skip


def one_at_a_time(*, preset: PresetName, replies: int, seed: int) -> Work:
    """Ours: decode, check, add, forget."""
    specs = full_size(preset)

    def work() -> tuple[float, Facts]:
        watch, rule = Stopwatch(), RunningMean({}, {})
        for index in range(replies):
            arrived = pack(weights=reply(specs, index, seed), specs=specs)
            with watch:
                rule.add(unpack_weights(arrived, specs, "float32"), float(index + 1))
            del arrived
        mean = rule.result()
        return watch.seconds, {"mean": sample([tensor.numpy() for tensor in mean.values()])}

    return work


def flower(*, preset: PresetName, replies: int, seed: int) -> Work:
    """Flower's mean over the replies, all of them in memory as its strategies hold them."""
    specs = full_size(preset)
    contents = [
        RecordDict(
            {
                "arrays": ArrayRecord.from_torch_state_dict(
                    reply(specs, index, seed), keep_input=False
                ),
                "metrics": MetricRecord({EXAMPLES: index + 1}),
            }
        )
        for index in range(replies)
    ]

    def work() -> tuple[float, Facts]:
        with Stopwatch() as watch:
            mean = aggregate_arrayrecords(contents, EXAMPLES)
        return watch.seconds, {"mean": sample([array.numpy() for array in mean.values()])}

    return work
