"""What the stages need of the engine: ask sites, get their replies one at a time."""

import math
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
        spare: Sites that need not answer. One that has gone away is waited for until the deadline
            where more of them are lacking.
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
    spare: int = 0

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
        spare: int = 0,
    ) -> "Question":
        """A request whose vocabulary is looked up in `common.wire.crossing`."""
        found = crossing(study, plan, category, stage, key, step)
        training = plan.trainings.get(key)
        return cls(
            category, stage, key, round_, weights, found.down, found.up, found.metrics,
            found.complete, step, training.settings.deadline_s if training else None, spare,
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
        kind: `said`: the site says that it cannot; `silent`: nothing was heard of it; `bad`: its
            answer is not what may come; `taken`: it says that it is a site that another node is.
    """

    site: str
    reason: str
    bytes_down: int = 0
    kind: Literal["said", "silent", "bad", "taken"] = "said"


class Exchange(Protocol):
    """An engine, seen from the stages."""

    def enrol(
        self, question: Question, sites: Sequence[str], *, wait_s: float, least: int
    ) -> Iterator[Reply | Refusal]:
        """Ask every node that is not known who it is; afterwards its site can be asked by name.

        Args:
            question: That is asked; its deadline is a node's, once it is asked.
            sites: Whom the study needs.
            wait_s: Seconds for which all of them are waited for; 0: who is there now.
            least: So many of them are waited for until the study's deadline.
        """

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        """Ask the sites, and give their answers in the order of `sites`, one at a time.

        For one that has not said yet who it is, a silent refusal stands.
        """

    def connected(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Those of the sites that can be reached now, as far as the engine knows."""


def least(quorum: float, sites: int) -> int:
    """How many of so many sites a quorum is: 0.56 of 25 are 14, which binary fractions exceed."""
    return max(1, math.ceil(round(quorum * sites, 9)))
