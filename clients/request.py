"""What a stage at a site gets and gives: plain Python, no Flower."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from clients.settings import SiteSettings
from common.config.study import Study
from common.plan import Plan, Training


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
        weights: The incoming weights, empty where none came.
    """

    site: SiteSettings
    study: Study
    plan: Plan
    stage: str
    target: str = ""
    round: int = 1
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def training(self) -> Training:
        """The training that is meant."""
        return self.plan.trainings[self.target]


@dataclass(frozen=True)
class Result:
    """What goes back: scalars, and weights where the stage trains."""

    metrics: Mapping[str, float | int]
    weights: Mapping[str, Tensor] | None = None
