"""Scoring the arms on one site's test images.

Pure functions over arrays: the caller reads the images and runs the models, and writes the table
into the site's own folder. Only the flat metrics (means, intervals, p values) may leave the site;
the per-image table stays.

Shapes: N images, C classes (one sigmoid channel each), H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import metrics, statistics

OVERLAP = ("dice", "iou", "hd95")
"""Reported where a reference exists."""

WITHOUT_REFERENCE = ("agreement", "confidence", "area")
"""Reported where none exists."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What one arm says of the test images (or of a batch of them).

    Attributes:
        fused: (N, C, H, W), probabilities in [0, 1]: the arm's answer.
        branches: Each (N, C, H, W), the members' probabilities; empty or one for an arm that is
            a single model.
    """

    fused: NDArray[Any]
    branches: Sequence[NDArray[Any]] = ()


@dataclass(frozen=True)
class ArmScores:
    """One arm's numbers, each (N, C); NaN where undefined (no reference, a single branch)."""

    dice: Scores
    iou: Scores
    hd95: Scores
    agreement: Scores
    confidence: Scores
    area: Scores
    area_reference: Scores


@dataclass(frozen=True)
class SiteScores:
    """A site's evaluation.

    Attributes:
        table: One row an image, arm and class (see `TABLE_COLUMNS`); stays at the site.
        metrics: Flat, "<arm>.<metric>.<stat>" and "<arm>~<other>.<metric>.<stat>"; crosses.
    """

    table: list[dict[str, str | float]]
    metrics: dict[str, float]


TABLE_COLUMNS = ("image", "cluster", "arm", "class", *(f.name for f in fields(ArmScores)))


def score_images(
    prediction: Prediction, reference: NDArray[Any] | None, *, threshold: float = 0.5
) -> ArmScores:
    """Score one arm on a batch; batches are put together with `join_scores`.

    Args:
        prediction: Probabilities.
        reference: Binary, (N, C, H, W), or None at a site without masks.
        threshold: Foreground from this probability up, in the fused answer and its branches.
    """
    mask = prediction.fused >= threshold
    unknown = np.full(mask.shape[:2], np.nan)
    several = len(prediction.branches) > 1
    return ArmScores(
        dice=unknown if reference is None else metrics.dice(mask, reference),
        iou=unknown if reference is None else metrics.iou(mask, reference),
        hd95=unknown if reference is None else metrics.hd95(mask, reference),
        agreement=(
            metrics.agreement([branch >= threshold for branch in prediction.branches])
            if several
            else unknown
        ),
        confidence=metrics.confidence(prediction.fused),
        area=metrics.area(mask),
        area_reference=unknown if reference is None else metrics.area(reference),
    )


def join_scores(batches: Sequence[ArmScores]) -> ArmScores:
    """The batches of one arm, in order, as one."""
    return ArmScores(
        **{f.name: np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(ArmScores)}
    )


def summarise(
    arms: Mapping[str, ArmScores],
    clusters: NDArray[np.int64],
    *,
    main: str,
    classes: Sequence[str] = (),
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """The flat metrics of a site (docs/formats.md, "evaluate").

    With a reference: `dice`, `iou`, `hd95` of every arm, and the main arm against each other one.
    Without: `agreement`, `confidence`, `area`. Several classes: the mean over classes under the
    metric's own name and "<metric>@<class>" beside it. A number that is undefined (the interval
    of a single patient, the agreement of a single branch) is left out.

    Args:
        arms: By name.
        clusters: (N,), the statistics unit of each image.
        main: The arm compared against each other.
        classes: Names of the C channels; needed only if C > 1.
        samples: Bootstrap draws.
        seed: Of the draws.
    """
    referenced = bool(np.isfinite(arms[main].dice).all())
    flat: dict[str, float] = {}
    for metric in OVERLAP if referenced else WITHOUT_REFERENCE:
        for suffix, channel in _channels(arms[main].area.shape[1], classes):
            values = {arm: channel(getattr(scores, metric)) for arm, scores in arms.items()}
            values = {arm: v for arm, v in values.items() if np.isfinite(v).all()}
            for arm, of_images in values.items():
                estimate = statistics.cluster_bootstrap(
                    of_images, clusters, samples=samples, seed=seed
                )
                name = f"{arm}.{metric}{suffix}"
                flat |= {
                    f"{name}.mean": estimate.mean,
                    f"{name}.ci_low": estimate.ci_low,
                    f"{name}.ci_high": estimate.ci_high,
                    f"{name}.variance": estimate.variance,
                    f"{name}.n_images": estimate.n_images,
                    f"{name}.n_patients": estimate.n_clusters,
                }
                if not referenced or arm == main:
                    continue
                paired = statistics.paired_wilcoxon(values[main], of_images, clusters)
                name = f"{main}~{arm}.{metric}{suffix}"
                flat |= {
                    f"{name}.difference": paired.difference,
                    f"{name}.p": paired.p,
                    f"{name}.z": paired.z,
                    f"{name}.n": paired.n,
                }
    return {name: float(value) for name, value in flat.items() if np.isfinite(value)}


def _channels(count: int, classes: Sequence[str]) -> list[tuple[str, Any]]:
    """Name suffix and selector (N, C) -> (N,): the mean over classes, then each class."""
    together = [("", lambda scores: scores.mean(axis=1))]
    if count == 1:
        return together
    if len(classes) != count:
        raise ValueError(f"{len(classes)} class names for {count} channels")
    return together + [
        (f"@{name}", lambda scores, c=c: scores[:, c]) for c, name in enumerate(classes)
    ]


def tabulate(
    arms: Mapping[str, ArmScores],
    images: Sequence[str],
    clusters: NDArray[np.int64],
    *,
    classes: Sequence[str] = (),
) -> list[dict[str, str | float]]:
    """One row an image, arm and class, for a CSV in the site's own folder.

    Args:
        arms: By name.
        images: (N,), the manifest's ids.
        clusters: (N,), the statistics unit of each image.
        classes: Names of the C channels.

    Returns:
        Rows with `TABLE_COLUMNS`; an empty text where a number is undefined.
    """
    rows: list[dict[str, str | float]] = []
    for n, (image, cluster) in enumerate(zip(images, clusters, strict=True)):
        for arm, scores in arms.items():
            for c in range(scores.area.shape[1]):
                row: dict[str, str | float] = {
                    "image": image,
                    "cluster": int(cluster),
                    "arm": arm,
                    "class": classes[c] if classes else "foreground",
                }
                for field in fields(ArmScores):
                    value = float(getattr(scores, field.name)[n, c])
                    row[field.name] = round(value, 6) if np.isfinite(value) else ""
                rows.append(row)
    return rows


def score_arms(
    predictions: Mapping[str, Prediction],
    reference: NDArray[Any] | None,
    *,
    images: Sequence[str],
    clusters: NDArray[np.int64],
    main: str,
    classes: Sequence[str] = (),
    samples: int = 2000,
    seed: int = 0,
    threshold: float = 0.5,
) -> SiteScores:
    """Everything at once, where all test images fit into memory.

    Args:
        predictions: By arm.
        reference: Binary, (N, C, H, W), or None.
        images: (N,), the manifest's ids.
        clusters: (N,), the statistics unit of each image.
        main: The arm compared against each other.
        classes: Names of the C channels; needed only if C > 1.
        samples: Bootstrap draws.
        seed: Of the draws.
        threshold: Foreground from this probability up.
    """
    arms = {arm: score_images(p, reference, threshold=threshold) for arm, p in predictions.items()}
    return SiteScores(
        table=tabulate(arms, images, clusters, classes=classes),
        metrics=summarise(arms, clusters, main=main, classes=classes, samples=samples, seed=seed),
    )
