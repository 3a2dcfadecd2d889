"""What a plan is made of: trainings, arms that segment, arms that select, classifiers to judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.config.selection import (
    Classify,
    Diffusion,
    Score,
    SourceClassifier,
    Sphere,
    budget_name,
)
from common.config.stages import Adapt, Contrastive, Finetune, Infusion, Mim

Stage = Literal[
    "mim",
    "contrastive",
    "finetune_mim",
    "finetune_contrastive",
    "lower",
    "upper",
    "adapt",
    "source_classifier",
    "diffusion",
    "sphere",
    "classify",
    "finetune_selected",
]
Settings = Mim | Contrastive | Finetune | Adapt | SourceClassifier | Diffusion | Sphere | Classify

UNTRAINED = "untrained"
"""The member that no training makes: the encoder at its random start."""


@dataclass(frozen=True)
class Training:
    """One run of a stage over its rounds.

    Attributes:
        key: `<arm>/<stage>`, with `@<site>` behind it where it belongs to one target. It is also
            the training's folder below `RUN/state/`. The second half's are
            `<architecture>/source_classifier`, `source/diffusion`, `<arm>/sphere`,
            `<arm>/<budget>/<architecture>/classify`, `<arm>/<budget>/<branch>/finetune_selected`.
        stage: What its sites do.
        settings: The stage's table with the arm's own changes.
        participants: The sites that train, in the study's order. Of a training on selected images,
            those of them that experts have annotated images at.
        start: Keys of the trainings whose weights it starts from; empty: the initial weights.
            One for fine-tuning (its encoder is taken), the members for `adapt`, the source's
            classifier for `sphere` and `classify`.
        member: 0, or the index of a further member of a homogeneous ensemble: another seed.
        architecture: timm's name of the classifier, where the stage trains one.
        selection: Key of the selection whose images it trains on; empty: it needs none.
        budget: Share of the pool that was annotated; 0 without a selection.
    """

    key: str
    stage: Stage
    settings: Settings
    participants: tuple[str, ...]
    start: tuple[str, ...] = ()
    member: int = 0
    architecture: str = ""
    selection: str = ""
    budget: float = 0.0

    @property
    def arm(self) -> str:
        """The arm that the training is named after."""
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Arm:
    """What is compared: members, and how they are fused.

    Attributes:
        name: The arm.
        members: For every site the keys of the trainings whose predictions are fused there. A
            member of an `adapt` training is `<key>#<index>`; `UNTRAINED` has no training. Where
            representations are scored, each arm has one member: its pretraining.
        infusion: How they are fused (one member: not at all).
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    infusion: Infusion


@dataclass(frozen=True)
class Selection:
    """Which images of the targets' pools an arm has annotated.

    Attributes:
        arm: The arm; its key.
        strategy: "dual", the name of a strategy, or somebody's own `package.module:name`.
        settings: The dual score's table with the arm's own changes.
        embedding: Key of the training whose network embeds: a sphere, or the source's classifier,
            of which other strategies take features and probabilities as well.
        reconstructed: Whether the score has the distance to the reconstruction.
        metric: Of the embedding: on the sphere, or Euclidean (P2 Table 3, +CL).
        budget: One threshold over all sites, or each site its own share.
        budgets: Shares of the pool.
    """

    arm: str
    strategy: str
    settings: Score
    embedding: str
    reconstructed: bool
    metric: Literal["angle", "euclidean"]
    budget: Literal["pooled", "per_site"]
    budgets: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """One number of the table: a classifier after an arm's selection at a budget (P2 Table 2).

    Attributes:
        key: `<arm>/<budget>/<architecture>`.
        arm: The arm.
        budget: Share of the pool; 0 for `source_only`, 1 for `full`.
        architecture: The classifier.
        training: Key of the training that made it.
    """

    key: str
    arm: str
    budget: float
    architecture: str
    training: str


@dataclass(frozen=True)
class Plan:
    """All trainings of a study, each after what it starts from, and its arms.

    Attributes:
        trainings: In the order in which they run.
        arms: What segments.
        selections: What selects, by arm.
        cells: The classifiers that are judged.
    """

    trainings: Mapping[str, Training]
    arms: Mapping[str, Arm]
    selections: Mapping[str, Selection]
    cells: Mapping[str, Cell]

    @property
    def predictors(self) -> dict[str, tuple[str, ...]]:
        """Which sites need the predictions of which member: key -> sites."""
        needed: dict[str, dict[str, None]] = {}
        for arm in self.arms.values():
            for site, members in arm.members.items():
                for member in members:
                    needed.setdefault(member, {})[site] = None
        return {member: tuple(sites) for member, sites in needed.items()}

    @property
    def outlining(self) -> tuple[tuple[str, float], ...]:
        """Of which selections the outlines are trained on: arm and budget, each once."""
        found = [
            (t.selection, t.budget)
            for t in self.trainings.values()
            if t.stage == "finetune_selected"
        ]
        return tuple(dict.fromkeys(found))

    @property
    def reconstructing(self) -> bool:
        """Whether any arm needs the targets' images redrawn."""
        return any(t.stage == "diffusion" for t in self.trainings.values())


def split_member(member: str) -> tuple[str, int]:
    """`"ensemble_adapted/adapt#1"` -> `("ensemble_adapted/adapt", 1)`; no `#` means member 0."""
    key, _, index = member.partition("#")
    return key, int(index or 0)


def cell_key(arm: str, budget: float, architecture: str) -> str:
    """`("dual", .2, "resnet50")` -> `"dual/20/resnet50"`."""
    return f"{arm_name(arm)}/{budget_name(budget)}/{architecture}"


def arm_name(arm: str) -> str:
    """An arm as it stands in keys and folders; somebody's own strategy by its last name."""
    return arm.rpartition(":")[2]
