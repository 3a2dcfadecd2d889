"""What the server half of every stage works with."""

from dataclasses import dataclass, field

from common.config.study import Study
from common.models.branches import State
from common.plan import Plan
from server.checkpoint import RunFolder
from server.exchange import Exchange
from server.tracking import Tracker


class StudyStopped(Exception):  # noqa: N818 - it is an outcome, not a fault of the code
    """The study cannot go on; its text says which site, which stage, and why."""


@dataclass
class ServerContext:
    """One run of a study at the server.

    Attributes:
        study: As the researcher wrote it.
        plan: Its trainings and arms.
        run: Where everything is kept.
        exchange: The engine.
        tracker: Gets the events.
        enrolled: Each site's counts.
        gone: Sites that take no part now; one that was added and is not here yet, with why.
        away: Sites that take part but are not here, with why: they count for every quorum.
    """

    study: Study
    plan: Plan
    run: RunFolder
    exchange: Exchange
    tracker: Tracker
    enrolled: dict[str, dict[str, float | int]] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)

    def result(self, key: str) -> State:
        """The weights that a finished training hands on."""
        checkpoint = self.run.checkpoint(key)
        return checkpoint.result(checkpoint.load(key))
