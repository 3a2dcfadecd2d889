"""One step of a stage that chooses images: ask some sites, tell the event, count the bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.models.branches import State
from server.checkpoint import Traffic
from server.context import ServerContext, StudyStopped
from server.exchange import Category, Question, Refusal, Reply, least
from server.stages import enrol


@dataclass
class Missing:
    """Sites that give no answer in a stage whose figures each site gives by itself.

    The stage goes on while the others are a quorum; it asks them nothing more, and a run that goes
    on asks them again.

    Attributes:
        context: The run.
        stage: Which.
        sites: All that take part.
        reasons: Of those that gave none.
    """

    context: ServerContext
    stage: str
    sites: Sequence[str]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def spare(self) -> int:
        """How many more may give none."""
        needed = least(self.context.study.federation.quorum, len(self.sites))
        return len(self.sites) - len(self.reasons) - needed

    def add(self, refusal: Refusal, what: str) -> None:
        """Take note of one more.

        Args:
            refusal: Its.
            what: The stage and what was asked, for the words.

        Raises:
            StudyStopped: If the others are too few, naming all that gave none.
        """
        if self.spare <= 0:
            others = [f"{site}: {reason}" for site, reason in self.reasons.items()]
            last = f"{refusal.site}: {refusal.reason}"
            raise StudyStopped(f"{what}: " + "; ".join([*others, last]))
        self.reasons[refusal.site] = refusal.reason
        self.context.tracker.emit(
            "refused", training=self.stage, round=1, site=refusal.site, reason=refusal.reason
        )


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
    missing: Missing | None = None,
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
        missing: Takes sites that give no answer.

    Raises:
        StudyStopped: If a site gives none: what is chosen must be chosen from all pools. Where
            `missing` takes them, if too few do.
    """
    question = Question.of(
        context.study, context.plan, category, stage, key, step=step, round_=round_,
        weights=weights, spare=missing.spare if missing else 0,
    )  # fmt: skip
    for answer in enrol.ask(context, question, sites):
        at = traffic.setdefault(answer.site, {"down": 0, "up": 0})
        at["down"] += answer.bytes_down
        if isinstance(answer, Refusal):
            what = ", ".join(part for part in (stage, key, step) if part)
            if missing is None:
                raise StudyStopped(f"{what}: {answer.site}: {answer.reason}")
            missing.add(answer, what)
            continue
        at["up"] += answer.bytes_up
        tell(context, stage, answer, key=key, step=step, round_=round_)
        yield answer


def tell(
    context: ServerContext,
    stage: str,
    answer: Reply,
    *,
    key: str = "",
    step: str = "",
    round_: int = 1,
) -> None:
    """Tell the event of one answer."""
    context.tracker.emit(
        "step", stage=stage, key=key, step=step, round=round_, site=answer.site,
        bytes_down=answer.bytes_down, bytes_up=answer.bytes_up,
        seconds=round(answer.seconds, 3), metrics=dict(answer.metrics),
    )  # fmt: skip
