"""What a hospital gives away when images are chosen together, and the least it insists on.

Whole sums are what makes the choice exact, and they are also how an image leaks: if one image
changes clusters between two iterations, the difference of the two sums IS its embedding. A site
that asks for a cohort of m > 0 images says no number that stands for fewer:

- a cluster with fewer than m of its images is dissolved, each image going to the next nearest
  cluster, before anything is added up (so totals do not betray it either);
- cells of histograms and counts below m are joined with their neighbours;
- of k-means it reports partitions, never single clusters, and a new partition only if it is far
  enough from every partition reported before, of any iteration, restart and number of clusters,
  and from the undivided whole. Else it repeats the nearest earlier one.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

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
from common.selection.lattice import Points

MOST_CLUSTERS = 12


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
    if clusters > MOST_CLUSTERS:
        raise InputError(
            f"score.clusters: {clusters}, but with a minimum cohort at most {MOST_CLUSTERS} can be "
            "held against each other"
        )
    if len(points) < cohort:
        shape = (restarts, clusters)
        return Sums(np.zeros((*shape, dimensions), np.int64), np.zeros(shape, np.int64))
    stated = f"{cohort}|{centroids.shape}|".encode() + np.ascontiguousarray(centroids).tobytes()
    key = hashlib.sha256(stated).hexdigest()
    if key not in reported.answers:
        nearest = Assignment(points).labels_for(centroids)
        reported.answers[key] = [
            _report(merge_clusters(points, own, centroids[restart], cohort), clusters, cohort,
                    reported)
            for restart, own in enumerate(nearest)
        ]  # fmt: skip
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
    exact = centroids.astype(np.float64)
    heights = np.square(exact).sum(axis=1)
    while True:
        counts = np.bincount(labels, minlength=len(centroids))
        small = np.flatnonzero((counts > 0) & (counts < cohort))
        if not len(small):
            return labels
        smallest = small[counts[small].argmin()]
        others = np.flatnonzero(counts > 0)
        others = others[others != smallest]
        rows = np.flatnonzero(labels == smallest)
        away = heights[others] - 2.0 * (points[rows].astype(np.float64) @ exact[others].T)
        labels[rows] = others[away.argmin(axis=1)]


def far_enough(first: Labels, second: Labels, cohort: int) -> bool:
    """Whether any unions of clusters of two partitions differ in no image, or in m at least.

    For a union S of the first, an image of cluster j of the second is out of place either way: the
    c_j of them that are in S if j is left out, the n_j - c_j others if it is taken. The best union
    of the second for S costs the sum of the smaller ones; where that is 0, the next best turns a
    whole cluster around, and clusters have m images by themselves.

    Args:
        first: (N,) clusters below 13.
        second: (N,)
        cohort: m.
    """
    table = _table(first, second)
    unions = (np.arange(2 ** len(table))[:, None] >> np.arange(len(table))) & 1
    inside = unions @ table
    differ = np.minimum(inside, table.sum(axis=0) - inside).sum(axis=1)
    return bool(((differ == 0) | (differ >= cohort)).all())


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


def _report(labels: Labels, clusters: int, cohort: int, known: Reported) -> tuple[int, list[int]]:
    """The partition that stands for these labels, and where its clusters belong."""
    tables = [_table(earlier, labels) for earlier in known.partitions]
    for place, table in enumerate(tables):
        if ((table > 0).sum(axis=0) <= 1).all() and ((table > 0).sum(axis=1) <= 1).all():
            return place, _places(table, clusters)  # the very same, perhaps in another order
    if all(far_enough(earlier, labels, cohort) for earlier in known.partitions):
        known.partitions = np.concatenate([known.partitions, labels[None]])
        return len(known.partitions) - 1, list(range(clusters))
    best, kept = 0, -1
    for place, table in enumerate(tables):
        agreeing = int(table[linear_sum_assignment(-table)].sum())
        if len(table) <= clusters and agreeing >= kept:
            best, kept = place, agreeing
    return best, _places(tables[best], clusters)


def _places(table: NDArray[np.int64], clusters: int) -> list[int]:
    """For each cluster of an earlier partition the one of now that it has most in common with."""
    square = np.zeros((max(clusters, len(table)), clusters), np.int64)
    square[: table.shape[0], : table.shape[1]] = table
    places = np.zeros(len(square), np.int64)
    rows, columns = linear_sum_assignment(-square)
    places[rows] = columns
    return [int(place) for place in places]


def _table(first: Labels, second: Labels) -> NDArray[np.int64]:
    """Images by cluster of the first and of the second."""
    width = int(second.max()) + 1
    height = int(first.max()) + 1
    flat = np.bincount(first.astype(np.int64) * width + second, minlength=height * width)
    return flat.reshape(height, width).astype(np.int64)
