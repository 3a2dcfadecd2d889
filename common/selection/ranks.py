"""The dual score of P2 2.3 from pooled histograms: U and R of each image, and what they are worth.

A site measures its images against the final centroids, says how many lie in each of 4096 cells of
U and of R, and gets the pooled histograms back. From them it can score its images by itself: score
= u[cell of U] + r[cell of R]. Equal cells share the mid-rank, so an image's score depends on the
pooled cells only, not on how the images are spread over sites.

Shape legend: N images, D dimensions, k clusters.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.selection.arithmetic import Floats, exp, log
from common.selection.lattice import (
    CELLS,
    Metric,
    Points,
    cell_values,
    chunks,
    histogram,
    separations,
    to_cells,
    top_of,
)

Uncertainty = Literal["margin", "span", "entropy", "min_gap"]
Combine = Literal["rank", "raw", "zscore"]
Representative = Literal["near", "far"]
Counts = NDArray[np.int64]
"""(4096,) images in each cell."""

TEMPERATURE = 0.1
"""Of the softmax behind `entropy`."""


@dataclass(frozen=True)
class Measured:
    """What a site knows of its images after k-means.

    Attributes:
        uncertainty: (N,) U in its own unit: radians (or distance), nats for entropy.
        distance: (N,) R, image to reconstruction; NaN where there are no reconstructions.
        cluster: (N,) int64 index of the nearest centroid.
        u_cells: (N,) cell of U.
        r_cells: (N,) cell of R; 0 where there are no reconstructions.
        has_distance: Whether there are reconstructions.
    """

    uncertainty: Floats
    distance: Floats
    cluster: NDArray[np.int64]
    u_cells: NDArray[np.int16]
    r_cells: NDArray[np.int16]
    has_distance: bool

    @property
    def histograms(self) -> NDArray[np.int64]:
        """(2, 4096) images in each cell of U and R."""
        return np.stack([histogram(self.u_cells), histogram(self.r_cells)])


def measure(
    points: Points,
    partners: Points | None,
    centroids: NDArray[np.int32],
    *,
    uncertainty: Uncertainty,
    metric: Metric = "angle",
) -> Measured:
    """U, R and cluster of every image.

    U is computed from the angles theta to the k centroids: ``margin`` second-smallest minus
    smallest; ``span`` largest minus smallest (P2's text); ``min_gap`` the smallest |theta_p -
    theta_q| of all pairs (P2 Eq. 4 as printed), which is small for many an image that is near one
    centroid and equally far from two others; all three are small where the image is uncertain.
    ``entropy`` of softmax(-theta / .1) is large there.

    Args:
        points: (N, D) images.
        partners: (N, D) their reconstructions, or None.
        centroids: (k, D), k >= 2.
        uncertainty: Which U.
        metric: Angles or distances.
    """
    u, r = np.empty(len(points)), np.full(len(points), np.nan)
    cluster = np.empty(len(points), np.int64)
    exact_kD = centroids.astype(np.float64)
    squares_k1 = np.square(exact_kD).sum(axis=1)[:, None]
    for rows in chunks(len(points)):
        part = points[rows].astype(np.float64)
        own = np.vecdot(part, part)
        dots_kN = exact_kD @ part.T
        cluster[rows] = (squares_k1 - 2.0 * dots_kN).argmin(axis=0)
        u[rows] = _uncertainty(separations(dots_kN, squares_k1, own, metric), uncertainty)
        if partners is not None:
            other = partners[rows].astype(np.float64)
            r[rows] = separations(np.vecdot(part, other), np.vecdot(other, other), own, metric)
    top = top_of(metric)
    return Measured(
        u,
        r,
        cluster,
        to_cells(u, uncertainty_top(uncertainty, len(centroids), metric)),
        np.zeros(len(points), np.int16) if partners is None else to_cells(r, top),
        partners is not None,
    )


def uncertainty_top(uncertainty: Uncertainty, clusters: int, metric: Metric) -> float:
    """The largest U there is: ln k for entropy, else the largest distance."""
    return math.log(clusters) if uncertainty == "entropy" else top_of(metric)


def _uncertainty(theta_kN: Floats, kind: Uncertainty) -> Floats:
    if kind == "entropy":
        return _entropy(theta_kN)
    ordered = np.sort(theta_kN, axis=0)
    found: Floats = (
        ordered[1] - ordered[0]
        if kind == "margin"
        else ordered[-1] - ordered[0]
        if kind == "span"
        else np.diff(ordered, axis=0).min(axis=0)
    )
    return found


def _entropy(theta_kN: Floats) -> Floats:
    """Entropy of softmax(-theta / .1) in nats; added up in the order of the centroids."""
    behind = (theta_kN - theta_kN.min(axis=0)) / TEMPERATURE
    weight, weighted = np.zeros_like(behind[0]), np.zeros_like(behind[0])
    for own in behind:
        share = exp(-own)
        weight += share
        weighted += share * own
    entropy: Floats = np.maximum(log(weight) + weighted / weight, 0.0)
    return entropy


@dataclass(frozen=True)
class Tables:
    """What a cell of U and of R adds to the score: score = (u[...] + r[...]) / divisor.

    Ranks stay whole numbers until they are added, so that equal sums are equal scores.

    Attributes:
        u: (4096,) direction folded in, small = more worth annotating.
        r: (4096,) the same, times omega.
        divisor: Of their sum.
    """

    u: Floats
    r: Floats
    divisor: float

    def score(self, measured: Measured) -> Floats:
        """(N,) I of P2 Eq. 4, ascending: the smallest is annotated first."""
        score: Floats = (self.u[measured.u_cells] + self.r[measured.r_cells]) / self.divisor
        return score


def make_tables(
    histograms: NDArray[np.int64],
    *,
    clusters: int,
    omega: float,
    uncertainty: Uncertainty,
    combine: Combine,
    representative: Representative,
    metric: Metric = "angle",
    with_distance: bool = True,
) -> Tables:
    """Look-up tables from the pooled histograms.

    Args:
        histograms: (2, 4096) pooled images in each cell of U and R; at least one image.
        clusters: k; the scale of entropy.
        omega: Weight of R.
        uncertainty: Which U; entropy is turned around.
        combine: ``rank`` adds mid-ranks / N; ``raw`` the values; ``zscore`` values that have the
            pooled mean taken off and are divided by the pooled standard deviation.
        representative: ``near`` prefers images near their reconstruction (Eq. 4), ``far`` the
            others.
        metric: Angles or distances.
        with_distance: False: R counts for nothing (P2 Table 3, without reconstruction).
    """
    top = uncertainty_top(uncertainty, clusters, metric)
    u = _worth(histograms[0], top, combine, turned=uncertainty == "entropy")
    r = np.zeros(CELLS)
    if with_distance:
        distance = _worth(histograms[1], top_of(metric), combine, turned=representative == "far")
        r = omega * distance
    divisor = 2.0 * float(histograms[0].sum()) if combine == "rank" else 1.0
    return Tables(u, r, divisor)


def _worth(counts: Counts, top: float, combine: Combine, *, turned: bool) -> Floats:
    """(4096,) of each cell, small = preferred; ranks are twice the mid-rank, a whole number."""
    if combine == "rank":
        below = np.cumsum(counts) - counts
        twice = 2 * below + counts + 1
        return (2 * int(counts.sum()) + 2 - twice if turned else twice).astype(np.float64)
    values = top - cell_values(top) if turned else cell_values(top)
    if combine == "raw":
        return values
    cells = range(CELLS)
    number = int(counts.sum())
    first = sum(int(count) * cell for cell, count in zip(cells, counts, strict=True))
    second = sum(int(count) * cell * cell for cell, count in zip(cells, counts, strict=True))
    spread = math.sqrt((number * second - first * first) / number**2)
    if not spread:
        return np.zeros(CELLS)
    z = (np.arange(CELLS, dtype=np.float64) - first / number) / spread
    return -z if turned else z
