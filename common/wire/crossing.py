"""What each message of a study carries, both ways: the one table that both ends and a gate read.

A training's rounds carry its network; the stages that choose images carry centroids, sums, counts
and histograms, all of fixed shape. Legend: D = embedding, F = the classifier's features, K =
clusters, R = restarts, B = budgets, C = labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from common.bundle.arm import all_members, bundle_arm
from common.bundle.reference import GREY as GREY_NUMBERS
from common.config.selection import budget_name
from common.config.study import Study
from common.models.branches import classifier_width, feature_width
from common.plan import Plan, Selection
from common.wire.errors import PayloadError
from common.wire.vocabulary import (
    COUNT,
    ENROL,
    REFERENCE_SPREADS,
    SHARE,
    SOME,
    STATISTICS,
    UNBOUNDED,
    MetricSpec,
    TensorSpec,
    evaluation_metrics,
    member_tensors,
    returned_tensors,
    training_metrics,
    training_tensors,
    validation_metrics,
)

CELLS = 4096
"""Cells of the histograms of uncertainty and distance, and of one step of the cut."""
GREY = 256
SIMILARITY = 64
SCORE_CELLS = 256
"""Cells of the histograms of a classifier's scores, of which the pooled AUROC is taken."""

COSINE = MetricSpec("number", -1.0, 1.0)
POSITIVE = MetricSpec("number", 0.0, UNBOUNDED)
CLASSIFIED = ("accuracy", "balanced_accuracy", "auroc")

STEPS: Mapping[str, tuple[str, ...]] = {
    "reconstruct": ("style", "redraw", "compare"),
    "score": ("embed", "moments", "cluster", "cells"),
    "select": ("rank", "cut", "choose", "quota"),
    "annotate": ("", "close"),
}
"""The steps of the stages that have any; a gate refuses a message with another."""


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
        key: Of the training, member, selection or cell that is meant; empty where none is.
        step: Of the stage, where it has several.

    Raises:
        PayloadError: If no message of this study is of that kind.
    """
    if stage == "classify" and category == "evaluate":
        return _classify(study, plan, key)
    own = {
        "enrol": lambda: Crossing(metrics=ENROL),
        "evaluate": lambda: _evaluate(study, plan, key),
        "reconstruct": lambda: _reconstruct(study, plan, step),
        "score": lambda: _score(study, plan, _selection(plan, key), step),
        "select": lambda: _select(study, plan, _selection(plan, key), step),
        "annotate": lambda: Crossing(metrics=annotation_metrics(plan)),
        "reference": lambda: _reference(study, plan, key),
    }
    if stage in own:
        return own[stage]()
    training = plan.trainings.get(key)
    if training is None or training.stage != stage:
        raise PayloadError("instruction: no such training")
    tensors = training_tensors(study, training)
    if category == "train":
        return Crossing(tensors, returned_tensors(study, training), training_metrics(training))
    return Crossing(tensors, metrics=validation_metrics(training))


def classifier_tensors(study: Study, plan: Plan, key: str) -> tuple[TensorSpec, ...]:
    """A source classifier as it goes down to a site, among other tensors."""
    tensors = training_tensors(study, plan.trainings[key])
    return tuple(replace(spec, name=f"classifier.{spec.name}") for spec in tensors)


def annotation_metrics(plan: Plan) -> Mapping[str, MetricSpec]:
    """How many of the selected are wanted, how many annotated, by arm and budget.

    And, where their outlines are trained on, how many of the annotated have one.
    """
    counted = {
        f"{selection.arm}.{budget_name(budget)}.{what}": COUNT
        for selection in plan.selections.values()
        for budget in selection.budgets
        for what in ("wanted", "annotated")
    }
    outlined = {f"{arm}.{budget_name(budget)}.outlined": COUNT for arm, budget in plan.outlining}
    return counted | outlined


def _selection(plan: Plan, key: str) -> Selection:
    if key not in plan.selections:
        raise PayloadError("instruction: no such selection")
    return plan.selections[key]


def _none(stage: str) -> PayloadError:
    return PayloadError(f"instruction: {stage} has no such step")


def _evaluate(study: Study, plan: Plan, key: str) -> Crossing:
    if not key:
        return Crossing(metrics=evaluation_metrics(study, plan), complete=False)
    if key not in plan.predictors:
        raise PayloadError("instruction: no such member")
    return Crossing(member_tensors(study, plan, key))


def _reference(study: Study, plan: Plan, key: str) -> Crossing:
    """What a bundle flags frames by: a member goes down; at the end aggregates come, no image's.

    A site with too few patients sends counts of 0 and tensors of zeros.
    """
    if not study.evaluate.reference:
        raise PayloadError("instruction: the study asks for no reference statistics")
    members = all_members(plan.arms[bundle_arm(plan)])
    if key:
        if key not in members:
            raise PayloadError("instruction: no such member")
        return Crossing(member_tensors(study, plan, key))
    width = len(members) * feature_width(study)
    shapes = {
        "grey_mean": (GREY_NUMBERS,), "grey_covariance": (GREY_NUMBERS, GREY_NUMBERS),
        "feature_mean": (width,), "feature_sd": (width,),
    }  # fmt: skip
    numbers = dict.fromkeys(REFERENCE_SPREADS, MetricSpec("number", -1000.0, 1000.0))
    return Crossing(
        up=tuple(TensorSpec(f"reference.{name}", "float32", s) for name, s in shapes.items()),
        metrics={"images": COUNT, "patients": COUNT, **numbers},
    )


def _reconstruct(study: Study, plan: Plan, step: str) -> Crossing:
    """P2 Tables 1 and 4, Fig. 1: sums and histograms; no image, no image's number."""
    key = f"{study.sphere.architecture}/source_classifier"
    features = TensorSpec("style.features", "float32", (classifier_width(study),))
    grey = TensorSpec("style.grey", "int64", (GREY,))
    match step:
        case "style":
            similarity = TensorSpec("style.similarity", "int64", (SIMILARITY,))
            return Crossing(
                training_tensors(study, plan.trainings[key]),
                (features, grey, similarity),
                {"images": SOME, "similarity_mean": COSINE, "similarity_std": POSITIVE},
            )
        case "redraw":
            diffusion = plan.trainings["source/diffusion"]
            return Crossing(training_tensors(study, diffusion), metrics={"images": SOME})
        case "compare":
            numbers = {
                f"{name}_{statistic}": POSITIVE
                for name in ("psnr", "ms_ssim", "rmse", "lpips_alex", "lpips_vgg")
                for statistic in ("mean", "std")
            } | {
                f"{name}_{when}": spec
                for when in ("before", "after")
                for name, spec in (
                    ("similarity_mean", COSINE), ("similarity_std", POSITIVE),
                    ("domain_bias", POSITIVE), ("wasserstein", POSITIVE),
                )
            } | {
                "images": SOME, "contrast_images": COUNT,
                "contrast_correlation": COSINE, "contrast_ratio": MetricSpec("number", -1e3, 1e3),
            }  # fmt: skip
            return Crossing(
                (*classifier_tensors(study, plan, key), features, grey),
                (
                    TensorSpec("similarity", "int64", (2, SIMILARITY)),
                    TensorSpec("grey", "int64", (2, GREY)),
                ),
                numbers,
                complete=False,
            )
    raise _none("reconstruct")


def _score(study: Study, plan: Plan, selection: Selection, step: str) -> Crossing:
    """The dual score's sums and counts (method.md, "Exact in any split")."""
    if selection.strategy != "dual":
        raise PayloadError("instruction: no such selection")
    settings, embedder = selection.settings, plan.trainings[selection.embedding]
    frozen = embedder.stage == "source_classifier"
    width = classifier_width(study) if frozen else study.sphere.dimension
    restarts, clusters = settings.restarts, settings.clusters
    match step:
        case "embed":
            return Crossing(
                training_tensors(study, embedder),
                metrics={
                    "images": SOME,
                    "exponent": MetricSpec("count", -64, 64),
                    "mean_angle": MetricSpec("number", 0.0, 3.1416),
                    "effective_rank": MetricSpec("number", 0.0, 65_536.0),
                },
            )
        case "moments":
            return Crossing(
                (TensorSpec("exponent", "int64", (1,)),),
                (TensorSpec("sum", "int64", (width,)), TensorSpec("square", "int64", (width,))),
                {"images": COUNT},
            )
        case "cluster":
            block = (restarts, clusters, width)
            return Crossing(
                (TensorSpec("centroids", "int32", block),),
                (TensorSpec("sums", "int64", block), TensorSpec("counts", "int64", block[:2])),
            )
        case "cells":
            return Crossing(
                (TensorSpec("centroids", "int32", (clusters, width)),),
                (
                    TensorSpec("uncertainty", "int64", (CELLS,)),
                    TensorSpec("distance", "int64", (CELLS,)),
                ),
            )
    raise _none("score")


def _select(study: Study, plan: Plan, selection: Selection, step: str) -> Crossing:
    """The cut through all sites' scores, by counts alone."""
    budgets = len(selection.budgets)
    # A row of the round, then one of each budget: score, tie, found, equal ones to take.
    cut = (TensorSpec("cut", "int64", (1 + budgets, 4)),)
    match step:
        case "rank":
            down: tuple[TensorSpec, ...] = ()
            if selection.strategy == "dual":
                down = (TensorSpec("histograms", "int64", (2, CELLS)),)
            elif selection.embedding:
                down = training_tensors(study, plan.trainings[selection.embedding])
            metrics = {
                "images": SOME,
                "pointwise": MetricSpec("count", 0, 1),
                "min_cohort": COUNT,  # which the site applies, so that no choice passes for exact
                "regrouped": COUNT,
            }
            return Crossing(down, metrics=metrics)
        case "cut":
            return Crossing(cut, (TensorSpec("counts", "int64", (budgets, CELLS)),))
        case "choose" | "quota":
            # What was selected, and how many of these the study's leading arm has chosen too.
            counts = {
                f"{what}.{budget_name(budget)}": COUNT
                for what in ("selected", "shared")
                for budget in selection.budgets
            }
            return Crossing(cut if step == "choose" else (), metrics=counts)
    raise _none("select")


def _classify(study: Study, plan: Plan, key: str) -> Crossing:
    if key:
        if key not in plan.cells:
            raise PayloadError("instruction: no such classifier")
        return Crossing(training_tensors(study, plan.trainings[plan.cells[key].training]))
    cells, labels = len(plan.cells), len(study.labels)
    return Crossing(
        up=(
            TensorSpec("scores", "int64", (cells, 2, SCORE_CELLS)),
            TensorSpec("confusion", "int64", (cells, labels, labels)),
        ),
        metrics=classification_metrics(plan),
        complete=False,
    )


def classification_metrics(plan: Plan) -> Mapping[str, MetricSpec]:
    """The scalars that a site may report on the classifiers; a site sends those that it has."""
    found: dict[str, MetricSpec] = {}
    for cell in plan.cells:
        for metric in CLASSIFIED:
            found |= {f"{cell}.{metric}.{statistic}": SHARE for statistic in STATISTICS}
            found |= {f"{cell}.{metric}.{count}": COUNT for count in ("n_images", "n_patients")}
        found[f"{cell}.versus.difference"] = COSINE
        found[f"{cell}.versus.p"] = SHARE
        found[f"{cell}.versus.z"] = MetricSpec("number", -100.0, 100.0)
        found[f"{cell}.versus.n"] = COUNT
    return found
