"""k-means at the server: a pure function of the seed and of whole numbers that sites add up.

The server starts from two sums (of the lattice points and of their squares): each restart draws its
centroids from the Gaussian with the pooled mean and per-dimension variance. Then, step by step, all
restarts at once, it sends centroids and gets sums and counts; a new centroid is the sum, brought
back to length 1 (angles) or divided by the count (Euclidean), rounded to the lattice. A cluster
without images takes the restart's next draw. A restart rests when its centroids repeat; the lowest
inertia counts, of equal ones the first.

Inertia needs no message of its own: the sum over all images of |x - c|^2 is
`sum |x|^2 + sum_j (n_j |c_j|^2 - 2 S_j.c_j)`, all of it whole numbers that are known here.

Shape legend: D dimensions, k clusters, R restarts.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.seeds import seed_of
from common.selection.arithmetic import Floats
from common.selection.assignment import Centroids, Moments, Sums
from common.selection.lattice import UNIT, Metric


@dataclass(frozen=True)
class Clustering:
    """Where k-means stands. Explicit, serialisable, and changed by `advance` alone.

    Attributes:
        seed: Of the draws.
        metric: Whether centroids are brought back to length 1.
        iterations: Steps at most.
        moments: Pooled, of all sites.
        centroids: (R, k, D) what is measured next; once finished, what was measured last.
        iteration: Steps done.
        drawn: Draws used by each restart.
        resting: Whether each restart's centroids repeat.
        inertia: Of each restart at the last step; empty before the first.
    """

    seed: int
    metric: Metric
    iterations: int
    moments: Moments
    centroids: Centroids
    iteration: int
    drawn: tuple[int, ...]
    resting: tuple[bool, ...]
    inertia: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether no further step comes."""
        return self.iteration >= self.iterations or all(self.resting)

    @property
    def best(self) -> int:
        """The restart with the lowest inertia, of equal ones the first."""
        return self.inertia.index(min(self.inertia))

    @property
    def result(self) -> NDArray[np.int32]:
        """(k, D) centroids of the best restart."""
        result: NDArray[np.int32] = self.centroids[self.best]
        return result

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        values = asdict(self)
        values["centroids"] = self.centroids.tolist()
        values["moments"] = {
            "count": self.moments.count,
            "sums": self.moments.sums.tolist(),
            "squares": self.moments.squares.tolist(),
        }
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Clustering":
        """What `to_json` gave."""
        moments = values["moments"]
        return cls(
            **{
                **values,
                "moments": Moments(
                    moments["count"],
                    np.array(moments["sums"], np.int64),
                    np.array(moments["squares"], np.int64),
                ),
                "centroids": np.array(values["centroids"], np.int32),
                "drawn": tuple(values["drawn"]),
                "resting": tuple(values["resting"]),
                "inertia": tuple(values["inertia"]),
            }
        )


def start(
    moments: Moments,
    *,
    clusters: int,
    restarts: int,
    iterations: int,
    metric: Metric,
    seed: int,
) -> Clustering:
    """Draw the first centroids of every restart.

    Args:
        moments: Pooled; at least one image.
        clusters: k, at least 2.
        restarts: R.
        iterations: Steps at most.
        metric: Angles or distances.
        seed: Of the draws.
    """
    mean, deviation = _gaussian(moments)
    centroids = np.stack(
        [
            np.stack([_draw(mean, deviation, metric, seed, r, j) for j in range(clusters)])
            for r in range(restarts)
        ]
    )
    return Clustering(
        seed, metric, iterations, moments, centroids, 0, (clusters,) * restarts, (False,) * restarts
    )


def advance(state: Clustering, pooled: Sums) -> Clustering:
    """Take one step's pooled sums.

    Args:
        state: Whose centroids the sums are of.
        pooled: Over all sites.
    """
    iteration = state.iteration + 1
    inertia = _inertia(state, pooled)
    centroids = state.centroids.copy()
    drawn, resting = list(state.drawn), list(state.resting)
    mean, deviation = _gaussian(state.moments)
    for restart in range(len(centroids)):
        if resting[restart]:
            continue
        for cluster, total in enumerate(pooled.sums[restart]):
            count = int(pooled.counts[restart, cluster])
            new = _centroid(total, count, state.metric) if count else None
            if new is None:
                new = _draw(mean, deviation, state.metric, state.seed, restart, drawn[restart])
                drawn[restart] += 1
            centroids[restart, cluster] = new
        resting[restart] = bool((centroids[restart] == state.centroids[restart]).all())
    if iteration >= state.iterations:
        centroids = state.centroids  # what comes now would be measured by nobody
    return replace(
        state,
        centroids=centroids,
        iteration=iteration,
        drawn=tuple(drawn),
        resting=tuple(resting),
        inertia=inertia,
    )


def _inertia(state: Clustering, pooled: Sums) -> tuple[int, ...]:
    whole = int(state.moments.squares.sum())
    centroids = state.centroids.astype(np.int64)
    lengths = pooled.counts * np.square(centroids).sum(axis=2)
    products = (pooled.sums * centroids).sum(axis=2)
    return tuple(whole + int(own) for own in (lengths - 2 * products).sum(axis=1))


def _gaussian(moments: Moments) -> tuple[Floats, Floats]:
    """(D,) pooled mean and standard deviation, in lattice units; from whole numbers."""
    count = moments.count
    variance = [
        (count * int(square) - int(total) ** 2) / count**2
        for total, square in zip(moments.sums, moments.squares, strict=True)
    ]
    return moments.sums / count, np.sqrt(np.maximum(variance, 0.0))


def _draw(
    mean: Floats, deviation: Floats, metric: Metric, seed: int, restart: int, number: int
) -> NDArray[np.int32]:
    """One draw of a restart's own series."""
    generator = np.random.default_rng(seed_of(seed, "centroid", restart, number))
    value = mean + deviation * generator.standard_normal(len(mean))
    if metric == "euclidean":
        return np.clip(np.rint(value), -UNIT, UNIT).astype(np.int32)
    unit = _unit(value)
    if unit is None:  # all images are one point at the origin: any direction is as good
        unit = np.zeros(len(mean), np.int32)
        unit[number % len(mean)] = UNIT
    return unit


def _centroid(total: NDArray[np.int64], count: int, metric: Metric) -> NDArray[np.int32] | None:
    """A cluster's new centroid; None where its images cancel out and give no direction."""
    if metric == "euclidean":
        return np.rint(total / count).astype(np.int32)
    return _unit(total.astype(np.float64))


def _unit(value: Floats) -> NDArray[np.int32] | None:
    """Rounded to the lattice at length 1; `fsum` rounds the same in any order of terms."""
    length = math.sqrt(math.fsum((value * value).tolist()))
    return np.rint(value * (UNIT / length)).astype(np.int32) if length else None
