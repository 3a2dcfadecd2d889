"""One step of a stage that chooses images: ask some sites, tell the event, count the bytes."""

from collections.abc import Iterator, Sequence

from common.models.branches import State
from server.checkpoint import Traffic
from server.context import ServerContext, StudyStopped
from server.exchange import Category, Question, Refusal, Reply


def ask_sites(
    context: ServerContext,
    category: Category,
    stage: str,
    sites: Sequence[str],
    *,
    traffic: Traffic,
    key: str = "",
    step: str = "",
    round_: int = 1,
    weights: State | None = None,
) -> Iterator[Reply]:
    """Ask sites one step of a stage; replies come one at a time, in the order of `sites`.

    What may cross is looked up in `common.wire.crossing`. The caller writes its state after each
    reply, so that a kill loses one at most.

    Args:
        context: The run.
        category: Flower's.
        stage: The stage.
        sites: Whom to ask.
        traffic: Bytes by site, counted up here.
        key: Of the selection, training or cell that is meant.
        step: Of the stage.
        round_: Of the step, from 1.
        weights: What goes down.

    Raises:
        StudyStopped: If a site refuses: what is chosen must be chosen from all pools.
    """
    question = Question.of(
        context.study, context.plan, category, stage, key, step=step, round_=round_,
        weights=weights,
    )  # fmt: skip
    for answer in context.exchange.ask(question, sites):
        at = traffic.setdefault(answer.site, {"down": 0, "up": 0})
        at["down"] += answer.bytes_down
        if isinstance(answer, Refusal):
            what = ", ".join(part for part in (stage, key, step) if part)
            raise StudyStopped(f"{what}: {answer.site}: {answer.reason}")
        at["up"] += answer.bytes_up
        context.tracker.emit(
            "step", stage=stage, key=key, step=step, round=round_, site=answer.site,
            bytes_down=answer.bytes_down, bytes_up=answer.bytes_up,
            seconds=round(answer.seconds, 3), metrics=dict(answer.metrics),
        )  # fmt: skip
        yield answer
