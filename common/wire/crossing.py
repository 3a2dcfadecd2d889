"""What each message of a study carries, both ways: the one table that both ends and a gate read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.config.study import Study
from common.plan import Plan
from common.wire.payload import PayloadError
from common.wire.vocabulary import (
    ENROL,
    MetricSpec,
    TensorSpec,
    evaluation_metrics,
    member_tensors,
    training_metrics,
    training_tensors,
    validation_metrics,
)


@dataclass(frozen=True)
class Crossing:
    """What one kind of message carries.

    Attributes:
        down: Tensors to the site.
        up: Tensors from the site.
        metrics: Scalars from the site.
        complete: Whether all of them must come.
    """

    down: tuple[TensorSpec, ...] = ()
    up: tuple[TensorSpec, ...] = ()
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    complete: bool = True


def crossing(
    study: Study, plan: Plan, category: str, stage: str, key: str = "", step: str = ""
) -> Crossing:
    """What a message and its reply may carry.

    Args:
        study: The study.
        plan: Its plan.
        category: Flower's: "train", "evaluate" or "query".
        stage: The stage.
        key: Of the training or member that is meant; empty where none is.
        step: Of the stage, where it has several.

    Raises:
        PayloadError: If no message of this study is of that kind.
    """
    if stage == "enrol":
        return Crossing(metrics=ENROL)
    if stage == "evaluate":
        if not key:
            return Crossing(metrics=evaluation_metrics(study, plan), complete=False)
        if key not in plan.predictors:
            raise PayloadError("instruction: no such member")
        return Crossing(member_tensors(study, plan, key))
    training = plan.trainings.get(key)
    if training is None or training.stage != stage:
        raise PayloadError("instruction: no such training")
    tensors = training_tensors(study, training)
    if category == "train":
        return Crossing(tensors, tensors, training_metrics(training))
    return Crossing(tensors, metrics=validation_metrics())
