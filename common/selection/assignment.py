"""k-means at a site: which centroid each image is nearest to, and exact sums over each cluster.

A site answers with whole numbers only: for each restart and cluster the sum of its images'
lattice points and their number. The server needs nothing else, not even the inertia (see
common.selection.kmeans).

**Why it is exact though most of it is done in float32.** The nearest centroid is the one with the
largest t_j = x.c_j - |c_j|^2 / 2; of equal ones the first. A float32 product of D-vectors is within
(D u / (1 - D u)) |x| |c| of the true one in any order of addition, u = 2^-24 (Higham, "Accuracy and
Stability of Numerical Algorithms", 3.1); subtracting adds another rounding or two. So where the
best float32 value leads the second by more than twice that bound, the true order is the same, and
what the lead exceeds it by is a lower bound on the true lead: the slack. All other rows are
computed again in float64, where every product and sum is exact (common.selection.lattice), with
their true lead as slack.

A centroid that moves by m (and its |c|^2 / 2 by h) changes t_j by at most |x| m + h. So as long as
the slack outlasts what its centroids have moved, an image cannot have changed clusters and is not
looked at again. Sums are whole numbers, so adding what came and subtracting what went gives the
very sums that adding up afresh would.

Sums of 504 lattice points stay below 2^24 in every coordinate and partial sum (504 LARGEST < 2^24),
which float32 holds exactly: so they are matrix products in float32, 504 rows at a time, collected
in int64.

Shape legend: N images, D dimensions, k clusters, R restarts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.selection.lattice import LARGEST, LONGEST, UNIT, Points, chunks

Centroids = NDArray[np.int32]
"""(R, k, D) lattice points."""

Labels = NDArray[np.int16]
"""(R, N) or (N,) index of the cluster."""

_BLOCK = 504
assert _BLOCK * LARGEST < 2**24
_U = 2.0**-24


@dataclass(frozen=True)
class Moments:
    """What a site says before k-means starts.

    Attributes:
        count: Images.
        sums: (D,) int64, of the lattice points.
        squares: (D,) int64, of their squares.
    """

    count: int
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.sums + other.sums, self.squares + other.squares
        )


@dataclass(frozen=True)
class Sums:
    """What a site says in one iteration.

    Attributes:
        sums: (R, k, D) int64, of the lattice points in each cluster.
        counts: (R, k) int64, of images.
    """

    sums: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.sums + other.sums, self.counts + other.counts)


def moments_of(points: Points) -> Moments:
    """Sum and sum of squares of each dimension."""
    sums = np.zeros(points.shape[1], np.int64)
    of_squares = np.zeros(points.shape[1], np.int64)
    for rows in chunks(len(points)):
        part = points[rows].astype(np.float64)
        sums += part.sum(axis=0).astype(np.int64)
        of_squares += np.einsum("nd,nd->d", part, part).astype(np.int64)
    return Moments(len(points), sums, of_squares)


def lloyd_step(points: Points, centroids: Centroids) -> Sums:
    """One iteration at a site that remembers nothing.

    Args:
        points: (N, D).
        centroids: (R, k, D).
    """
    return Assignment(points).step(centroids)


def nearest(points: Points, centroids: NDArray[np.int32]) -> Labels:
    """(N,) index of the nearest of (k, D) centroids; of equally near ones the first."""
    labels: Labels = Assignment(points).labels_for(centroids[None])[0]
    return labels


def sums_of(points: Points, labels: Labels, clusters: int) -> Sums:
    """Exact sums and counts of (R, N) labels over the points."""
    sums = np.zeros((len(labels), clusters, points.shape[1]), np.int64)
    for rows in chunks(len(points)):
        for restart, own in enumerate(labels):
            sums[restart] += _block_sums(points[rows], _one_hot(own[rows], clusters))
    return Sums(sums, np.stack([_counts(own, clusters) for own in labels]))


class Assignment:
    """A site's images and where they are; each step looks only at those that may have moved.

    What it remembers makes it faster, never different: a new one gives the same answers.

    Args:
        points: (N, D) lattice points; kept, not copied.
    """

    def __init__(self, points: Points) -> None:
        self.points = points
        dimensions = points.shape[1]
        # Rounding moves each coordinate by half a unit at most.
        self._length = LONGEST * UNIT + 0.5 * dimensions**0.5
        self._gamma = 1.01 * dimensions * _U
        self._rounding = 0.0
        self._centroids: Centroids | None = None
        self._labels: Labels = np.empty((0, 0), np.int16)
        self._slack: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._sums: NDArray[np.int64] = np.empty((0, 0, 0), np.int64)

    def step(self, centroids: Centroids) -> Sums:
        """Sums and counts of the images nearest to each centroid.

        Args:
            centroids: (R, k, D); R and k must not change from step to step.
        """
        labels = self.labels_for(centroids)
        clusters = centroids.shape[1]
        return Sums(self._sums.copy(), np.stack([_counts(own, clusters) for own in labels]))

    def labels_for(self, centroids: Centroids) -> Labels:
        """(R, N) index of the nearest centroid; of equally near ones the first."""
        if self._centroids is None:
            restarts, clusters, dimensions = centroids.shape
            self._labels = np.full((restarts, len(self.points)), -1, np.int16)
            self._slack = np.zeros((restarts, len(self.points)), np.float32)
            self._sums = np.zeros((restarts, clusters, dimensions), np.int64)
        else:
            self._loosen(centroids)
        self._centroids = centroids.copy()
        block = _Block(centroids, self._length, self._gamma)
        # A slack is at most twice the largest value; this covers its rounding in float32.
        self._rounding = max(self._rounding, 4 * _U * block.size)
        for rows in chunks(len(self.points)):
            self._look(rows, block)
        return self._labels

    def _loosen(self, centroids: Centroids) -> None:
        """Take from every slack what its centroids' movement may have cost."""
        assert self._centroids is not None
        before, now = self._centroids.astype(np.float64), centroids.astype(np.float64)
        moved = np.sqrt(np.square(now - before).sum(axis=2))
        heights = np.abs(np.square(now).sum(axis=2) - np.square(before).sum(axis=2)) / 2
        cost = self._length * moved * (1 + 1e-9) + heights
        for restart, own in enumerate(cost):
            if not own.any():
                continue
            order = np.sort(own)
            others = np.where(own == order[-1], order[-2] if len(own) > 1 else 0.0, order[-1])
            loss = ((own + others) * (1 + 1e-6) + self._rounding).astype(np.float32)
            self._slack[restart] -= loss[self._labels[restart]]

    def _look(self, rows: slice, block: "_Block") -> None:
        """Settle the rows of a chunk whose slack is used up."""
        open_RN = self._slack[:, rows] <= 0
        share = open_RN.mean(axis=1)
        whole = np.flatnonzero(share > 0.5)
        part = self.points[rows]
        if len(whole):
            values = block.values(part, whole)
            for place, restart in enumerate(whole.tolist()):
                self._settle(rows, None, part, restart, values[place], block)
        for restart in np.flatnonzero((share > 0) & (share <= 0.5)).tolist():
            picked = np.flatnonzero(open_RN[restart])
            some = part[picked]
            values = block.values(some, np.array([restart]))
            self._settle(rows, picked, some, restart, values[0], block)

    def _settle(
        self,
        rows: slice,
        picked: NDArray[np.int64] | None,
        part: Points,
        restart: int,
        values_kN: NDArray[np.float32],
        block: "_Block",
    ) -> None:
        """Labels, slack and sums of some rows, from their float32 values."""
        label, lead = _two_best(values_kN)
        slack = lead - np.float32(block.doubt)
        unsure = np.flatnonzero(slack <= 0)
        if len(unsure):
            label[unsure], slack[unsure] = block.exact(part[unsure], restart)
        own_labels, own_slack = self._labels[restart, rows], self._slack[restart, rows]
        before = own_labels.copy() if picked is None else own_labels[picked]
        moved = np.flatnonzero(before != label)
        if len(moved):
            change = _one_hot(label[moved], len(values_kN))
            change -= _one_hot(before[moved], len(values_kN))
            came = part if len(moved) == len(part) else part[moved]
            self._sums[restart] += _block_sums(came, change)
        if picked is None:
            own_labels[:], own_slack[:] = label, slack
        else:
            own_labels[picked], own_slack[picked] = label, slack


class _Block:
    """All centroids of one step, in float32 with the doubt that goes with it, and in float64."""

    def __init__(self, centroids: Centroids, length: float, gamma: float) -> None:
        self._exact = centroids.astype(np.float64)
        self._squares = np.square(self._exact).sum(axis=2)
        self._fast = centroids.astype(np.float32)
        self._heights = (self._squares / 2).astype(np.float32)
        largest = float(self._squares.max())
        self.size = length * largest**0.5 + largest / 2  # no value is larger
        # Twice the error of a value (product, height, their difference), and that of the lead.
        self.doubt = 2 * (gamma * length * largest**0.5 + 5 * _U * self.size) * 1.01

    def values(self, points: Points, restarts: NDArray[np.int64]) -> NDArray[np.float32]:
        """(restarts, k, n) t_j of some rows."""
        picked = self._fast if len(restarts) == len(self._fast) else self._fast[restarts]
        flat = picked.reshape(-1, picked.shape[-1]) @ points.T
        values: NDArray[np.float32] = flat.reshape(len(restarts), -1, len(points))
        values -= self._heights[restarts][:, :, None]
        return values

    def exact(self, points: Points, restart: int) -> tuple[Labels, NDArray[np.float32]]:
        """True label and lead of some rows; the lead is rounded downwards."""
        doubled = 2.0 * (self._exact[restart] @ points.T.astype(np.float64))
        doubled -= self._squares[restart][:, None]
        label = doubled.argmax(axis=0).astype(np.int16)
        if len(doubled) == 1:
            return label, np.full(len(points), np.inf, np.float32)
        two = np.partition(doubled, -2, axis=0)[-2:]
        return label, ((two[1] - two[0]) / 2 * (1 - 1e-6)).astype(np.float32)


def _two_best(values_kN: NDArray[np.float32]) -> tuple[Labels, NDArray[np.float32]]:
    """Index of the largest of each column, and its lead over the second largest."""
    best = values_kN[0].copy()
    second = np.full_like(best, -np.inf)
    label = np.zeros(len(best), np.int16)
    for index in range(1, len(values_kN)):
        value = values_kN[index]
        np.maximum(second, np.minimum(best, value), out=second)
        np.copyto(label, index, where=value > best)
        np.maximum(best, value, out=best)
    return label, best - second


def _one_hot(labels: Labels, clusters: int) -> NDArray[np.float32]:
    """(k, n) ones where a row has the cluster's label; -1 is no cluster's."""
    hot: NDArray[np.float32] = (np.arange(clusters, dtype=np.int16)[:, None] == labels).astype(
        np.float32
    )
    return hot


def _block_sums(points: Points, weights_kN: NDArray[np.float32]) -> NDArray[np.int64]:
    """(k, D) sums of the points with weights -1, 0 or 1; exact, 504 rows at a time."""
    total = np.zeros((len(weights_kN), points.shape[1]), np.int64)
    for rows in chunks(len(points), _BLOCK):
        total += (weights_kN[:, rows] @ points[rows]).astype(np.int64)
    return total


def _counts(labels: Labels, clusters: int) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=clusters).astype(np.int64)
