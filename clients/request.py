"""What a stage at a site gets and gives: plain Python, no Flower."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from clients.settings import SiteSettings
from common.config.study import Study
from common.plan import Plan, Selection, Training


@dataclass(frozen=True)
class Request:
    """One instruction, read and checked.

    Attributes:
        site: The site's own settings.
        study: The study as it crossed.
        plan: Its plan.
        stage: The stage.
        target: Key of the training or member that is meant; empty where none is.
        round: From 1.
        weights: The incoming weights (or other tensors), empty where none came.
        step: Of a stage that has several kinds of message; empty elsewhere.
    """

    site: SiteSettings
    study: Study
    plan: Plan
    stage: str
    target: str = ""
    round: int = 1
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    step: str = ""

    @property
    def training(self) -> Training:
        """The training that is meant."""
        return self.plan.trainings[self.target]

    @property
    def selection(self) -> Selection:
        """The selection that is meant."""
        return self.plan.selections[self.target]


@dataclass(frozen=True)
class Result:
    """What goes back: scalars, and weights (or sums, counts, histograms) where there are any."""

    metrics: Mapping[str, float | int]
    weights: Mapping[str, Tensor] | None = None
