"""All that may cross between a site and the server: one typed list for each stage.

Weights, counts and scalar metrics; nothing else has a name here, and what has no name is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

from common.config.study import Study
from common.models.branches import (
    encoder_of,
    network_of,
    norm_of,
    returned_state,
    segmentation_network,
    shared_state,
)
from common.plan import Plan, Training, split_member

Kind = Literal["count", "number"]
UNBOUNDED = 1e9


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (in memory, such as "float32") and shape of one tensor; order is the tuple's."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it travels in the study's wire dtype (integers always travel as they are)."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class MetricSpec:
    """One scalar: a count (a whole number) or a number, with the range it must lie in."""

    kind: Kind
    low: float = 0.0
    high: float = UNBOUNDED


COUNT = MetricSpec("count")
SOME = MetricSpec("count", 1.0)
PAIRS = MetricSpec("count", 0, 1e15)
"""P1's own 400 epochs of 1,024 views count more than 1e9 pairs."""
LOSS = MetricSpec("number", -UNBOUNDED, UNBOUNDED)
SHARE = MetricSpec("number", 0.0, 1.0)

ENROL: Mapping[str, MetricSpec] = {
    "site": COUNT,
    "images": COUNT,
    "patients": COUNT,
    "videos": COUNT,
    "train_images": COUNT,
    "train_patients": COUNT,
    "val_images": COUNT,
    "test_images": COUNT,
    "test_patients": COUNT,
    "masks": COUNT,
    "unit": MetricSpec("count", 0, 2),
}
"""Who a node is and how large: `site` is the index into the study's sites, `unit` into `UNITS`."""

UNITS = ("patient", "group", "image")
"""What a split and an interval treat as independent, best first."""

TRAIN: Mapping[str, MetricSpec] = {
    "examples": SOME,
    "patients": SOME,
    "loss": LOSS,
    "loss_first": LOSS,
}
EXTRA: Mapping[str, Mapping[str, MetricSpec]] = {
    "mim": {},
    "contrastive": {
        "pairs_masked": PAIRS,
        "pairs_total": PAIRS,
        "anchors_without_negatives": PAIRS,
    },
    "adapt": {"confidence": SHARE, "foreground": SHARE},
    "diffusion": {
        "memorisation_features": SHARE,
        "memorisation_correlation": SHARE,
        "memorisation_samples": SOME,
    },
    "sphere": {
        "mean_angle": MetricSpec("number", 0.0, 3.1416),
        "effective_rank": MetricSpec("number", 0.0, 65_536.0),
    },
    "classify": {},
    "finetune_selected": {},
}
SOURCE_CLASSIFIER: Mapping[str, MetricSpec] = {
    "val_loss": LOSS,
    "val_balanced_accuracy": SHARE,
    "val_images": SOME,
    "val_patients": SOME,
    "best_epoch": COUNT,
}
VALIDATION: Mapping[str, MetricSpec] = {
    "val_loss": LOSS,
    "val_dice": SHARE,
    "val_images": SOME,
    "val_patients": SOME,
    "best_epoch": COUNT,
}
REFERENCE_SPREADS = tuple(
    f"reference_{of}_{statistic}"
    for of in ("grey", "feature", "confidence")
    for statistic in ("mean", "sd")
)
"""Of the distances of held-out patients to their site's own means, and of the confidence."""
RETRIEVAL = ("recall_at_1", "map")
PROBE = ("probe_balanced_accuracy", "probe_auroc")
REPRESENTATION = (*RETRIEVAL, *PROBE)
REFERENCE = ("dice", "iou", "hd95")
UNREFERENCED = ("agreement", "confidence", "area")
STATISTICS = ("mean", "ci_low", "ci_high", "variance")


@lru_cache(maxsize=64)
def _tensors(
    canonical: str, training: Training, norm: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    study = Study.model_validate_json(canonical)
    with torch.device("meta"):
        network = network_of(study, training)
    return _specs(shared_state(network, norm)), _specs(returned_state(network, training, norm))


@lru_cache(maxsize=64)
def _encoder_tensors(canonical: str, norm: str) -> tuple[TensorSpec, ...]:
    study = Study.model_validate_json(canonical)
    with torch.device("meta"):
        network = segmentation_network(study)
    return _specs(encoder_of(shared_state(network, norm)))


def _specs(state: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in state.items()
    )


def training_tensors(study: Study, training: Training) -> tuple[TensorSpec, ...]:
    """What a training's rounds hand to a site."""
    return _both_ways(study, training)[0]


def returned_tensors(study: Study, training: Training) -> tuple[TensorSpec, ...]:
    """What comes back from a round: all of it, or the part that learns (`returned_state`)."""
    return _both_ways(study, training)[1]


def _both_ways(
    study: Study, training: Training
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    # Trainings that differ in who, where and on what have equal tensors: each is built once.
    alike = replace(
        training, key="", participants=(), start=("",) * len(training.start), member=0,
        selection="", budget=0.0,
    )  # fmt: skip
    return _tensors(study.canonical(), alike, norm_of(study, training))


def member_tensors(study: Study, plan: Plan, member: str) -> tuple[TensorSpec, ...]:
    """What crosses to a site so that it can predict with a member.

    Where representations are scored, the encoder alone; the decoder or projection stays behind.
    """
    if study.representation:
        return _encoder_tensors(study.canonical(), study.federation.norm)
    key, _ = split_member(member)
    training = plan.trainings[key]
    if training.stage in ("adapt", "finetune_selected"):
        start, _ = split_member(training.start[0])
        training = plan.trainings[start]
    return training_tensors(study, training)


def training_metrics(training: Training) -> Mapping[str, MetricSpec]:
    """The scalars of one reply to a round of training."""
    if training.stage == "source_classifier":
        return {**TRAIN, **SOURCE_CLASSIFIER}
    return {**TRAIN, **EXTRA.get(training.stage, VALIDATION)}


def validation_metrics(training: Training) -> Mapping[str, MetricSpec]:
    """The scalars of one reply to "how good are these weights on your validation set?"."""
    judged = SOURCE_CLASSIFIER if training.stage == "source_classifier" else VALIDATION
    return {name: spec for name, spec in judged.items() if name != "best_epoch"}


def evaluation_metrics(study: Study, plan: Plan) -> Mapping[str, MetricSpec]:
    """The scalars that a site may report on the arms; a site sends those that it has."""
    return dict(_evaluation(study, plan))


def _evaluation(study: Study, plan: Plan) -> Iterator[tuple[str, MetricSpec]]:
    if not plan.arms:
        return
    compared: tuple[str, ...] = REFERENCE
    scored = dict.fromkeys((*REFERENCE, *UNREFERENCED), 1.0)
    scored["hd95"] = 2.0 * study.model.image_size
    suffixes = ("", *(f"@{name}" for name in study.classes))
    if study.representation:
        scored, compared, suffixes = dict.fromkeys(REPRESENTATION, 1.0), RETRIEVAL, ("",)
    for arm in plan.arms:
        for metric, high in scored.items():
            for suffix in suffixes:
                stem = f"{arm}.{metric}{suffix}"
                yield f"{stem}.n_images", COUNT
                yield f"{stem}.n_patients", COUNT
                for statistic in STATISTICS:
                    limit = high * high if statistic == "variance" else high
                    yield f"{stem}.{statistic}", MetricSpec("number", 0.0, limit)
    first = next(iter(plan.arms))
    for other in plan.arms:
        for metric in compared:
            for suffix in suffixes:
                stem, limit = f"{first}~{other}.{metric}{suffix}", scored[metric]
                yield f"{stem}.difference", MetricSpec("number", -limit, limit)
                yield f"{stem}.p", SHARE
                yield f"{stem}.z", MetricSpec("number", -100.0, 100.0)
                yield f"{stem}.n", COUNT
