"""The dual score on pooled data: the same algorithm as the federated one, with a single site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.selection.arithmetic import Floats
from common.selection.assignment import Assignment, moments_of
from common.selection.kmeans import Clustering, advance, start
from common.selection.lattice import Metric, Points, exponent_of, to_lattice
from common.selection.ranks import (
    Combine,
    Representative,
    Uncertainty,
    make_tables,
    measure,
)

RESTARTS, ITERATIONS = 10, 50


@dataclass(frozen=True)
class DualScore:
    """What every image is worth, in the order of the images.

    Attributes:
        score: (N,) float64, P2's I; small = annotate first.
        uncertainty: (N,) float64, U; by default small = between two clusters.
        distance: (N,) float64, R, image to reconstruction; NaN without reconstructions.
        cluster: (N,) int64, index of the nearest centroid.
    """

    score: Floats
    uncertainty: Floats
    distance: Floats
    cluster: NDArray[np.int64]


def dual_score(
    images_z: NDArray[np.floating],
    reconstructions_z: NDArray[np.floating] | None,
    *,
    clusters: int = 4,
    omega: float = 1.0,
    uncertainty: Uncertainty = "margin",
    combine: Combine = "rank",
    representative: Representative = "near",
    seed: int = 0,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
    metric: Metric = "angle",
) -> DualScore:
    """Score images by uncertainty and representativeness (P2 2.3, Eq. 4).

    However the images are split over hospitals, the federated stages give each of them exactly
    this score: they run the same functions, and only whole-number sums and counts cross.

    Args:
        images_z: (N, D) embeddings of the images; unit vectors unless the metric is Euclidean.
        reconstructions_z: (N, D) of their reconstructions, in the same order; None: R is dropped
            (P2 Table 3, without reconstruction).
        clusters: k of k-means, at least 2 and at most N. P2 Table 3 tries 2 to 5 and keeps 4.
        omega: Weight of R.
        uncertainty: Which U, see common.selection.ranks.measure. Keep ``margin`` unless you
            reproduce: ``min_gap`` is Eq. 4 as printed and prefers unambiguous images.
        combine: How U and R are added, see common.selection.ranks.make_tables.
        representative: ``near`` (Eq. 4 ascending) or ``far`` (P2's text).
        seed: Of the starting centroids.
        restarts: Of k-means; the lowest inertia counts.
        iterations: Of k-means at most.
        metric: ``euclidean`` for embeddings that are not normalised.

    Raises:
        ValueError: If the shapes do not fit, there are more clusters than images, or an embedding
            is not finite or (angles) not of length 1.
    """
    if reconstructions_z is not None and reconstructions_z.shape != images_z.shape:
        raise ValueError(
            f"{images_z.shape} embeddings of images, {reconstructions_z.shape} of reconstructions"
        )
    if not 2 <= clusters <= len(images_z):
        raise ValueError(f"{clusters} clusters of {len(images_z)} images")
    exponent = 0
    if metric == "euclidean":
        both = [images_z] if reconstructions_z is None else [images_z, reconstructions_z]
        exponent = max(exponent_of(z) for z in both)
    points = to_lattice(images_z, metric=metric, exponent=exponent)
    partners = (
        None
        if reconstructions_z is None
        else to_lattice(reconstructions_z, metric=metric, exponent=exponent)
    )
    state = cluster_points(
        points, clusters=clusters, restarts=restarts, iterations=iterations, metric=metric,
        seed=seed,
    )  # fmt: skip
    measured = measure(points, partners, state.result, uncertainty=uncertainty, metric=metric)
    tables = make_tables(
        measured.histograms,
        clusters=clusters,
        omega=omega,
        uncertainty=uncertainty,
        combine=combine,
        representative=representative,
        metric=metric,
        with_distance=partners is not None,
    )
    return DualScore(
        tables.score(measured), measured.uncertainty, measured.distance, measured.cluster
    )


def cluster_points(
    points: Points,
    *,
    clusters: int,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
    metric: Metric = "angle",
    seed: int = 0,
) -> Clustering:
    """k-means over the lattice points of one place."""
    assignment = Assignment(points)
    state = start(
        moments_of(points), clusters=clusters, restarts=restarts, iterations=iterations,
        metric=metric, seed=seed,
    )  # fmt: skip
    while not state.finished:
        state = advance(state, assignment.step(state.centroids))
    return state
