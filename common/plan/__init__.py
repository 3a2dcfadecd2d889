"""From arms to trainings: what has to be trained, in which order, starting from what.

Both sides derive the same plan from the same study, so an instruction needs to name a training
only. Arms that need an equal training share it.
"""

from common.config.study import Study
from common.plan.segmentation import SegmentationPlanner
from common.plan.selection import SelectionPlanner
from common.plan.types import (
    UNTRAINED,
    Arm,
    Cell,
    Plan,
    Selection,
    Settings,
    Stage,
    Training,
    arm_name,
    split_member,
)

__all__ = [
    "UNTRAINED",
    "Arm",
    "Cell",
    "Plan",
    "Selection",
    "Settings",
    "Stage",
    "Training",
    "arm_name",
    "make_plan",
    "split_member",
]


def make_plan(study: Study) -> Plan:
    """Derive the trainings, arms, selections and classifiers of a study."""
    trainings = _Trainings()
    segmentation = SegmentationPlanner(study, trainings.add)
    selection = SelectionPlanner(study, trainings.add)
    arms = segmentation.arms()
    if study.selection_arms:
        selection.before()
        if "ensemble_selected" in study.segmentation_arms:
            arms |= segmentation.selected(selection.leading())
        selection.after()
    return Plan(trainings.known, arms, selection.selections, selection.cells)


class _Trainings:
    """Collects trainings; an equal one that is there already is taken instead."""

    def __init__(self) -> None:
        self.known: dict[str, Training] = {}
        self._keys: dict[tuple[object, ...], str] = {}

    def add(self, training: Training) -> str:
        identity = (
            training.stage,
            training.settings,
            training.participants,
            training.start,
            training.member,
            training.architecture,
            training.selection,
            training.budget,
        )
        if identity not in self._keys:
            self._keys[identity] = training.key
            self.known[training.key] = training
        return self._keys[identity]
