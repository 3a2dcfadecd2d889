"""What a hospital gives away when images are chosen together, and the least it insists on.

Whole sums are what makes the choice exact, and they are also how an image leaks: if one image
changes clusters between two iterations, the difference of the two sums IS its embedding. A site
that asks for a cohort of m > 0 images says no number that stands for fewer:

- a cluster with fewer than m of its images is dissolved, each image going to the next nearest
  cluster, before anything is added up (so totals do not betray it either);
- cells of histograms and counts below m are joined with their neighbours;
- of k-means it reports partitions, never single clusters, and a new partition only if it is far
  enough from every partition reported before, of any iteration, restart and number of clusters,
  and from the undivided whole. If it is not, the few images that make the difference are put where
  they were before; where that does not help, the nearest earlier partition is repeated.

**Far enough** means: take any clusters of the one partition and any of the other; the images that
are in one of the two unions and not in the other are none, or at least m. This is more than
looking at pairs of sums: the sums of one partition add up to the whole, so holding back one
changed cluster while reporting the others would hold back nothing. And it covers every linear
combination of the sums of two partitions, not only differences: in sum_i f_i A_i - sum_j g_j B_j
an image has the weight f - g of its two clusters. Where that is not 0, some threshold t lies
between the two, and the image is in just one of the unions {i: f_i > t} and {j: g_j > t}; and
whoever is in just one of them has a weight. So **no combination of the sums of any two reports
stands for fewer than m images**. The number of unions doubles with each cluster, which is why
there may be at most 12.

**What remains possible.** Combinations of three and more reports are not looked at: with
patience, or with centroids made for the purpose, a server might find some that isolate fewer
images. Sums of m images are sums of m embeddings, not noise: where the m are nearly alike, their
mean tells what they are like. Numbers of images (pool, selected, annotated) are told as they are.
Against a server that is to learn no site's sums at all, secure aggregation is the remedy; this is
none.

The record of what was reported is kept in a file, so that a repeated request gets the identical
answer, and a run that is resumed still knows what it has said.

Shape legend: N images, D dimensions, k clusters, R restarts, P partitions reported.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from common.config.selection import COHORT_CLUSTERS
from common.errors import InputError
from common.selection.assignment import (
    Assignment,
    Centroids,
    Labels,
    Moments,
    Sums,
    moments_of,
    sums_of,
)
from common.selection.lattice import Points, chunks

_ATTEMPTS = 100
_LABELS_AT_ONCE = 2**21


@dataclass
class Reported:
    """Every partition of one set of images that a site has reported, and in answer to what.

    Attributes:
        partitions: (P, N) the cluster of each image; the first is the undivided whole.
        answers: Request's digest -> for each restart the partition and the place of each of its
            clusters in the answer.
    """

    partitions: NDArray[np.int16]
    answers: dict[str, list[tuple[int, list[int]]]] = field(default_factory=dict)

    @classmethod
    def of_whole(cls, images: int) -> "Reported":
        """Nothing has been reported but the sum over all images."""
        return cls(np.zeros((1, images), np.int16))

    @classmethod
    def read(cls, path: Path, images: int) -> "Reported":
        """What a file says; of the whole alone if there is none."""
        if not path.exists():
            return cls.of_whole(images)
        with np.load(path, allow_pickle=False) as kept:
            answers: Mapping[str, list[tuple[int, list[int]]]] = json.loads(str(kept["answers"]))
            return cls(
                kept["partitions"],
                {
                    key: [(int(p), list(places)) for p, places in own]
                    for key, own in answers.items()
                },
            )

    def write(self, path: Path) -> None:
        """Write it in one move."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file, partitions=self.partitions, answers=np.array(json.dumps(self.answers))
            )
        partial.replace(path)


def guarded_moments(points: Points, cohort: int) -> Moments:
    """A site's moments, or those of no image where it has fewer than the cohort."""
    if len(points) >= cohort:
        return moments_of(points)
    return moments_of(points[:0])


def guarded_step(points: Points, centroids: Centroids, cohort: int, reported: Reported) -> Sums:
    """One iteration of k-means at a site that insists on a cohort; `reported` grows.

    Args:
        points: (N, D).
        centroids: (R, k, D).
        cohort: m, at least 1.
        reported: What the site has said of these points so far.

    Returns:
        Sums and counts of R reported partitions; zeros where the site has fewer than m images.

    Raises:
        InputError: If there are more than 12 clusters.
    """
    restarts, clusters, dimensions = centroids.shape
    if clusters > COHORT_CLUSTERS:
        raise InputError(
            f"score.clusters: {clusters}, but with a minimum cohort at most {COHORT_CLUSTERS} can "
            "be held against each other"
        )
    if len(points) < cohort:
        shape = (restarts, clusters)
        return Sums(np.zeros((*shape, dimensions), np.int64), np.zeros(shape, np.int64))
    stated = f"{cohort}|{centroids.shape}|".encode() + np.ascontiguousarray(centroids).tobytes()
    key = hashlib.sha256(stated).hexdigest()
    if key not in reported.answers:
        nearest = Assignment(points).labels_for(centroids)
        reported.answers[key] = [
            _report(points, own, centroids[restart], cohort, reported)
            for restart, own in enumerate(nearest)
        ]
    labels = np.stack(
        [
            np.array(places, np.int16)[reported.partitions[partition]]
            for partition, places in reported.answers[key]
        ]
    )
    return sums_of(points, labels, clusters)


def merge_clusters(
    points: Points, labels: Labels, centroids: NDArray[np.int32], cohort: int
) -> Labels:
    """Dissolve clusters below the cohort, the smallest first.

    Args:
        points: (N, D), N at least the cohort.
        labels: (N,) of the nearest centroid.
        centroids: (k, D).
        cohort: m.

    Returns:
        (N,) labels; every cluster that has images has at least m.
    """
    labels = labels.copy()
    while True:
        counts = np.bincount(labels, minlength=len(centroids))
        small = np.flatnonzero((counts > 0) & (counts < cohort))
        if not len(small):
            return labels
        smallest = small[counts[small].argmin()]
        others = np.flatnonzero(counts > 0)
        others = others[others != smallest]
        rows = np.flatnonzero(labels == smallest)
        labels[rows] = others[_away(points[rows], centroids[others]).argmin(axis=1)]


def far_enough(known: NDArray[np.int16], labels: Labels, cohort: int) -> bool:
    """Whether any unions of clusters of two partitions differ in no image, or in m at least.

    Args:
        known: (P, N) partitions whose clusters have m images each, or none.
        labels: (N,) another one.
        cohort: m.
    """
    return _too_near(known, labels, cohort) is None


def _too_near(
    known: NDArray[np.int16], labels: Labels, cohort: int
) -> tuple[int, list[int], list[int]] | None:
    """The first partition and the unions, of it and of the labels, that differ in too few images.

    For a union S of the labels' clusters, an image of cluster j of the earlier partition is out of
    place either way: the c_j of them that are in S if j is left out, the n_j - c_j others if it is
    taken. The best union for S costs the sum of the smaller ones; where that is 0, the next best
    turns a whole cluster around, and clusters have m images by themselves.
    """
    height = int(labels.max()) + 1
    unions = (np.arange(2**height)[:, None] >> np.arange(height)) & 1
    for rows in _few(known, labels):
        tables = _tables(known[rows], labels)
        inside = unions @ tables  # (p, unions, clusters of the earlier one)
        outside = tables.sum(axis=1, keepdims=True) - inside
        differ = np.minimum(inside, outside).sum(axis=2)
        wrong = np.argwhere((differ > 0) & (differ < cohort))
        if len(wrong):
            place, union = wrong[0]
            theirs = np.flatnonzero(inside[place, union] > outside[place, union])
            return rows.start + int(place), theirs.tolist(), np.flatnonzero(unions[union]).tolist()
    return None


def settle(
    points: Points,
    labels: Labels,
    centroids: NDArray[np.int32],
    cohort: int,
    known: NDArray[np.int16],
) -> Labels | None:
    """Put images back where they were until a partition is far enough from all that are known.

    Each goes to the nearest cluster on its side, so few images move, and none far.

    Args:
        points: (N, D).
        labels: (N,) clusters of m images or none.
        centroids: (k, D).
        cohort: m.
        known: (P, N).

    Returns:
        (N,) labels; None if there is no end to it.
    """
    labels = labels.copy()
    for _ in range(_ATTEMPTS):
        found = _too_near(known, labels, cohort)
        if found is None:
            return labels
        place, theirs, ours = found
        inside, wanted = np.isin(labels, ours), np.isin(known[place], theirs)
        full = np.unique(labels)
        for rows, to in (
            (np.flatnonzero(wanted & ~inside), full[np.isin(full, ours)]),
            (np.flatnonzero(inside & ~wanted), full[~np.isin(full, ours)]),
        ):
            labels[rows] = to[_away(points[rows], centroids[to]).argmin(axis=1)]
    return None


def merge_cells(counts: NDArray[np.int64], cohort: int) -> NDArray[np.int64]:
    """Join neighbouring cells until each has m images or none.

    A group of cells is counted at its images' mean cell; fewer than m in all are not told.

    Args:
        counts: (..., cells), each row by itself.
        cohort: m; 0 leaves all as it is.
    """
    if cohort <= 1:
        return counts
    rows = counts.reshape(-1, counts.shape[-1])
    return np.stack([_merge_row(row, cohort) for row in rows]).reshape(counts.shape)


def _merge_row(counts: NDArray[np.int64], cohort: int) -> NDArray[np.int64]:
    merged = np.zeros_like(counts)
    groups: list[tuple[int, int]] = []  # images; the sum of their cells
    images = cells = 0
    for cell in np.flatnonzero(counts):
        images += int(counts[cell])
        cells += int(counts[cell]) * int(cell)
        if images >= cohort:
            groups.append((images, cells))
            images = cells = 0
    if images and groups:
        last = groups.pop()
        groups.append((last[0] + images, last[1] + cells))
    for images, cells in groups:
        merged[(2 * cells + images) // (2 * images)] += images
    return merged


def _report(
    points: Points,
    labels: Labels,
    centroids: NDArray[np.int32],
    cohort: int,
    reported: Reported,
) -> tuple[int, list[int]]:
    """The partition that stands for these labels, and where its clusters belong."""
    clusters = len(centroids)
    merged = merge_clusters(points, labels, centroids, cohort)
    settled = settle(points, merged, centroids, cohort, reported.partitions)
    if settled is None:
        return _nearest(merged, clusters, reported.partitions)
    tables = _tables(reported.partitions, settled)
    one_each = [((tables > 0).sum(axis=axis) <= 1).all(axis=1) for axis in (1, 2)]
    for place in np.flatnonzero(one_each[0] & one_each[1])[:1].tolist():  # the very same
        return place, _places(tables[place], clusters)
    reported.partitions = np.concatenate([reported.partitions, settled[None]])
    return len(reported.partitions) - 1, list(range(clusters))


def _nearest(labels: Labels, clusters: int, known: NDArray[np.int16]) -> tuple[int, list[int]]:
    """The earlier partition with most images in common, of no more clusters; the latest of such."""
    tables = _tables(known, labels)
    best, kept = 0, -1
    for place in np.flatnonzero(known.max(axis=1) < clusters).tolist():
        agreeing = int(tables[place][linear_sum_assignment(-tables[place])].sum())
        if agreeing >= kept:
            best, kept = place, agreeing
    return best, _places(tables[best], clusters)


def _places(table: NDArray[np.int64], clusters: int) -> list[int]:
    """For each cluster of an earlier partition the one of now that it has most in common with.

    Args:
        table: Images by cluster of now and of the earlier one.
        clusters: k of now.
    """
    square = np.zeros((clusters, max(clusters, table.shape[1])), np.int64)
    square[: table.shape[0], : table.shape[1]] = table
    places = np.zeros(square.shape[1], np.int64)
    now, earlier = linear_sum_assignment(-square)
    places[earlier] = now
    return [int(place) for place in places]


def _tables(known: NDArray[np.int16], labels: Labels) -> NDArray[np.int64]:
    """(P, k, K) images by cluster of the labels and of each earlier partition."""
    height, width = int(labels.max()) + 1, int(known.max()) + 1
    tables = []
    for rows in _few(known, labels):
        flat = labels.astype(np.int64) * width + known[rows]
        flat += np.arange(len(flat))[:, None] * (height * width)
        counts = np.bincount(flat.ravel(), minlength=len(flat) * height * width)
        tables.append(counts.reshape(len(flat), height, width).astype(np.int64))
    return np.concatenate(tables)


def _few(known: NDArray[np.int16], labels: Labels) -> Iterator[slice]:
    """Partitions that are looked at together: 16 MB of numbers."""
    return chunks(len(known), max(1, _LABELS_AT_ONCE // len(labels)))


def _away(points: Points, centroids: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n, k) squared distances, less what is the same for all centroids; exact."""
    exact = centroids.astype(np.float64)
    away: NDArray[np.float64] = np.square(exact).sum(axis=1) - 2.0 * (
        points.astype(np.float64) @ exact.T
    )
    return away
