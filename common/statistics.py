"""Statistics with the patient as the unit (method.md, "Statistics").

Frames of one patient are not independent: P1's 318 test frames are 17 patients. So at one site
the clusters (patients, else duplicate groups, else images) are what is resampled and what is
paired; across sites only their means, variances and p values meet, never an image's score.

Undefined numbers (the interval of a single patient) are NaN here; who writes them drops them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Clusters = NDArray[np.integer[Any]]

_CELLS_AT_ONCE = 4_000_000
"""Draws x clusters held at a time: 32 MB of counts, however many patients a site has."""


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known of its uncertainty.

    Attributes:
        mean: Over images, each weighing the same.
        ci_low: Lower end of the interval; NaN with fewer than two clusters.
        ci_high: Upper end; NaN with fewer than two clusters.
        variance: Of the mean, over the bootstrap draws; NaN with fewer than two clusters.
        n_images: Images.
        n_clusters: Patients (or groups, or images).
    """

    mean: float
    ci_low: float
    ci_high: float
    variance: float
    n_images: int
    n_clusters: int


@dataclass(frozen=True)
class Paired:
    """One arm against another on the same images.

    Attributes:
        difference: Mean over images of a - b: the difference of the two tabled means.
        p: Two-sided, Wilcoxon signed rank over the clusters' mean differences.
        z: The same test as a signed normal deviate: positive where the ranks favour a. Its sign
            is the test's own and may differ from the mean's when few patients differ hugely.
        n: Clusters compared, ties included.
    """

    difference: float
    p: float
    z: float
    n: int


@dataclass(frozen=True)
class Macro:
    """A mean over sites, each weighing the same.

    Attributes:
        mean: Of the sites' means.
        ci_low: Normal interval from the sites' variances; NaN if a site's is unknown.
        ci_high: Its upper end.
        n_sites: Sites.
    """

    mean: float
    ci_low: float
    ci_high: float
    n_sites: int


@dataclass(frozen=True)
class Combined:
    """Several sites' tests as one.

    Attributes:
        z: Signed normal deviate.
        p: Two-sided.
    """

    z: float
    p: float


def _cluster_sums(values: Values, clusters: Clusters) -> tuple[Values, Values]:
    """Sum and count of the values of each cluster, in order of the cluster's number."""
    _, member = np.unique(clusters, return_inverse=True)
    sums = np.bincount(member, weights=values).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def cluster_bootstrap(
    values: Values,
    clusters: Clusters,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean over images with a percentile interval from resampled clusters.

    Whole clusters are drawn with replacement, as many as there are; each draw's statistic is the
    mean over the images of the drawn clusters. The same seed and clusters give the same draws, so
    arms scored on the same images are resampled alike.

    Args:
        values: (N,), one number an image.
        clusters: (N,), the patient (or group, or image) of each.
        samples: Bootstrap draws.
        level: Of the interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ValueError: Without values, or when the lengths differ.
    """
    if values.shape != clusters.shape or values.ndim != 1 or values.size == 0:
        raise ValueError(f"values {values.shape} for clusters {clusters.shape}")
    sums, counts = _cluster_sums(values, clusters)
    mean, k = float(values.mean()), sums.size
    if k < 2:
        return Estimate(mean, np.nan, np.nan, np.nan, values.size, k)
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // k)
    means = np.concatenate(
        [
            (drawn @ sums) / (drawn @ counts)
            for start in range(0, samples, rows)
            for drawn in [rng.multinomial(k, np.full(k, 1 / k), min(rows, samples - start))]
        ]
    )
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return Estimate(mean, float(low), float(high), float(means.var(ddof=1)), values.size, k)


def paired_wilcoxon(a: Values, b: Values, clusters: Clusters) -> Paired:
    """Wilcoxon signed-rank test of a against b, on the clusters' mean differences.

    Zero differences are dropped (Wilcoxon's own rule); scipy's exact distribution where the
    sample is small. If every cluster's difference is zero, p = 1. With few clusters p cannot be
    small (five patients: .0625 at best), which is the truth and not a failure.

    Args:
        a: (N,), one arm's numbers.
        b: (N,), the other's on the same images.
        clusters: (N,), the patient (or group, or image) of each.
    """
    if not a.shape == b.shape == clusters.shape:
        raise ValueError(f"paired values {a.shape} and {b.shape} for clusters {clusters.shape}")
    sums, counts = _cluster_sums(a - b, clusters)
    # Equal differences must tie; the last bits of a mean of floats would break the tie.
    differences = np.round(sums / counts, 12)
    difference = float((a - b).mean())
    nonzero = differences[differences != 0]
    if nonzero.size == 0:
        return Paired(difference, 1.0, 0.0, counts.size)
    p = float(stats.wilcoxon(nonzero).pvalue)
    ranks = stats.rankdata(np.abs(nonzero))
    direction = float(np.sign((np.sign(nonzero) * ranks).sum()))
    return Paired(difference, p, direction * _deviate(p), counts.size)


def _deviate(p: float) -> float:
    """The normal deviate >= 0 of a two-sided p; the smallest float stands for 0."""
    return float(stats.norm.isf(max(p, np.nextafter(0.0, 1.0)) / 2.0))


def stouffer(z: Sequence[float], weights: Sequence[float] | None = None) -> Combined:
    """Stouffer's combination of independent sites' signed deviates, sum w z / sqrt(sum w^2).

    Args:
        z: One a site, signed: sites that disagree in direction cancel.
        weights: Defaults to equal; the square root of the number of patients is usual.

    Raises:
        ValueError: Without sites.
    """
    if not len(z):
        raise ValueError("nothing to combine")
    deviates = np.asarray(z, dtype=np.float64)
    w = np.ones_like(deviates) if weights is None else np.asarray(weights, dtype=np.float64)
    total = float((w * deviates).sum() / np.sqrt((w**2).sum()))
    return Combined(total, float(2.0 * stats.norm.sf(abs(total))))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p values, in the given order.

    An adjusted value below .05 rejects with the family-wise error at .05.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(x) for x in adjusted]


def macro_mean(means: Sequence[float], variances: Sequence[float], *, level: float = 0.95) -> Macro:
    """Mean over sites with a normal interval from the sites' bootstrap variances.

    The sites are taken as fixed (these hospitals, not a draw of hospitals): the variance of the
    mean of S sites is the sum of theirs over S^2.

    Args:
        means: One a site.
        variances: Of those means; NaN where unknown.
        level: Of the interval.

    Raises:
        ValueError: Without sites, or when the lengths differ.
    """
    if not len(means) or len(means) != len(variances):
        raise ValueError(f"{len(means)} means and {len(variances)} variances")
    mean = float(np.mean(means))
    half = float(stats.norm.isf((1 - level) / 2) * np.sqrt(np.sum(variances)) / len(means))
    return Macro(mean, mean - half, mean + half, len(means))
