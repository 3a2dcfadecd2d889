"""What the stages need of the engine: ask sites, get their replies one at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from common.config.study import Study
from common.models.branches import State
from common.plan import Plan
from common.wire.crossing import crossing
from common.wire.vocabulary import MetricSpec, TensorSpec

Category = Literal["train", "evaluate", "query"]


@dataclass(frozen=True)
class Question:
    """One request to several sites.

    Attributes:
        category: Flower's category of message.
        stage: The stage.
        training: Key of the training or member that is meant, or empty.
        round: From 1.
        weights: What goes down, or None.
        down: The vocabulary of what goes down.
        up: The vocabulary of what may come back.
        metrics: The scalars that may come back.
        complete: Whether all of them must.
        step: Of a stage that has several.
        deadline_s: Seconds that a site may take; None: as the study's federation says.
        quorum: Share of the sites whose answers suffice. A site that has gone away is waited for
            until the deadline where the others do not suffice.
    """

    category: Category
    stage: str
    training: str = ""
    round: int = 1
    weights: State | None = None
    down: Sequence[TensorSpec] = ()
    up: Sequence[TensorSpec] = ()
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    complete: bool = True
    step: str = ""
    deadline_s: float | None = None
    quorum: float = 1.0

    @classmethod
    def of(
        cls,
        study: Study,
        plan: Plan,
        category: Category,
        stage: str,
        key: str = "",
        *,
        step: str = "",
        round_: int = 1,
        weights: State | None = None,
    ) -> "Question":
        """A request whose vocabulary is looked up in `common.wire.crossing`."""
        found = crossing(study, plan, category, stage, key, step)
        training = plan.trainings.get(key)
        quorum = (training.settings.quorum or study.federation.quorum) if training else 1.0
        return cls(
            category, stage, key, round_, weights, found.down, found.up, found.metrics,
            found.complete, step, training.settings.deadline_s if training else None, quorum,
        )  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """A site's answer, checked against the vocabulary."""

    site: str
    weights: State
    metrics: Mapping[str, float | int]
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True)
class Refusal:
    """A site gave no answer that counts, and why.

    Attributes:
        site: Which.
        reason: Why.
        bytes_down: What went to it.
        taken: Whether it says that it is a site that another node is.
    """

    site: str
    reason: str
    bytes_down: int = 0
    taken: bool = False


class Exchange(Protocol):
    """An engine, seen from the stages."""

    def enrol(
        self, question: Question, sites: Sequence[str], *, wait: bool
    ) -> Iterator[Reply | Refusal]:
        """Ask every node that is not known who it is; afterwards its site can be asked by name.

        Args:
            question: That is asked.
            sites: Whom the study needs.
            wait: Wait until so many unknown nodes are there, and for those that come later.
        """

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        """Ask the sites, and give their answers in the order of `sites`, one at a time."""
