"""A site's sums are the true ones: float32 where it is sure, exact where it is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.selection import assignment
from common.selection.assignment import Assignment, lloyd_step, moments_of, nearest, sums_of
from common.selection.kmeans import Clustering, advance, start
from common.selection.lattice import LARGEST, UNIT, Points, to_lattice


def points_of(number: int, dimensions: int, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((4, dimensions))[rng.integers(4, size=number)]
    z = z + rng.standard_normal((number, dimensions))
    return to_lattice((z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32))


def plain(points: Points, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, sums and counts by whole numbers alone."""
    whole = points.astype(np.int64)
    labels, sums, counts = [], np.zeros(centroids.shape, np.int64), []
    for restart, own in enumerate(centroids.astype(np.int64)):
        away = np.stack([np.square(whole - centroid).sum(axis=1) for centroid in own])
        labels.append(away.argmin(axis=0))
        for cluster in range(len(own)):
            sums[restart, cluster] = whole[labels[-1] == cluster].sum(axis=0)
        counts.append(np.bincount(labels[-1], minlength=len(own)))
    return np.stack(labels), sums, np.stack(counts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 3), st.integers(2, 40))
def test_every_step_is_the_plain_one(seed: int, k: int, restarts: int, dimensions: int) -> None:
    """Centroids walk about, now a little, now far, now not at all; some stand on each other."""
    rng = np.random.default_rng(seed)
    points = points_of(int(rng.integers(1, 3000)), dimensions, seed)
    centroids = points[rng.integers(len(points), size=(restarts, k))].astype(np.int32)
    remembering = Assignment(points)
    for size in (0, 1, 300, 0, 6000, 3, 0):
        centroids = centroids + rng.integers(-size, size + 1, size=centroids.shape).astype(np.int32)
        centroids[0, -1] = centroids[0, 0]
        labels, sums, counts = plain(points, centroids)
        found = remembering.step(centroids)
        assert (remembering.labels_for(centroids) == labels).all()
        assert (found.sums == sums).all()
        assert (found.counts == counts).all()
        afresh = lloyd_step(points, centroids)
        assert afresh.sums.tobytes() == found.sums.tobytes()


def test_where_float32_cannot_tell_the_exact_product_decides() -> None:
    """Centroids one lattice step apart: of two million, float32 keeps 24 bits."""
    rng = np.random.default_rng(0)
    points = points_of(4000, 256, 1)
    centroids = np.repeat(points[None, :1].astype(np.int32), 4, axis=1)
    centroids[0, 1:] += rng.integers(-1, 2, size=(3, 256)).astype(np.int32)
    labels, sums, _ = plain(points, centroids)
    assert (nearest(points, centroids[0]) == labels[0]).all()
    assert (lloyd_step(points, centroids).sums == sums).all()
    exact = centroids[0].astype(np.float64)
    fast = points @ centroids[0].astype(np.float32).T
    heights = (np.square(exact).sum(axis=1) / 2).astype(np.float32)
    assert ((fast - heights).argmax(axis=1) != labels[0]).any()  # float32 alone would err


def test_most_rows_need_no_exact_product_and_later_few_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = {"exact": 0, "fast": 0}
    exact, values = assignment._Block.exact, assignment._Block.values

    def counted_exact(self, points, restart):  # type: ignore[no-untyped-def]
        rows["exact"] += len(points)
        return exact(self, points, restart)

    def counted_values(self, points, restarts):  # type: ignore[no-untyped-def]
        rows["fast"] += len(points)
        return values(self, points, restarts)

    monkeypatch.setattr(assignment._Block, "exact", counted_exact)
    monkeypatch.setattr(assignment._Block, "values", counted_values)
    points = points_of(20_000, 64, 2)
    site = Assignment(points)
    state: Clustering = start(
        moments_of(points), clusters=4, restarts=1, iterations=12, metric="angle", seed=0
    )
    looked = []
    while not state.finished:
        before = rows["fast"]
        state = advance(state, site.step(state.centroids))
        looked.append(rows["fast"] - before)
    assert len(looked) >= 5
    assert looked[0] == len(points)
    assert looked[-1] < 0.1 * len(points)
    assert rows["exact"] < 0.01 * sum(looked)


def test_moments_and_sums_are_whole_and_add_up_over_any_split() -> None:
    points = points_of(5000, 32, 3)
    whole = points.astype(np.int64)
    moments = moments_of(points)
    assert moments.count == 5000
    assert (moments.sums == whole.sum(axis=0)).all()
    assert (moments.squares == np.square(whole).sum(axis=0)).all()
    parts = moments_of(points[:1]) + moments_of(points[1:1]) + moments_of(points[1:])
    assert (parts.count, parts.sums.tolist()) == (5000, moments.sums.tolist())
    labels = np.random.default_rng(0).integers(0, 3, size=(2, 5000)).astype(np.int16)
    sums = sums_of(points, labels, 4)
    assert sums.counts[:, 3].tolist() == [0, 0]
    for restart in range(2):
        for cluster in range(4):
            own = whole[labels[restart] == cluster]
            assert sums.sums[restart, cluster].tolist() == own.sum(axis=0).tolist()


def test_the_longest_coordinates_do_not_overflow_float32() -> None:
    points = np.zeros((2000, 3), np.float32)
    points[:, 0] = 32768
    sums = lloyd_step(points, np.array([[[32768, 0, 0], [0, 1, 0]]], np.int32))
    assert sums.sums[0, 0].tolist() == [2000 * 32768, 0, 0]


@pytest.mark.parametrize("length", [1.009, 1.0099])
def test_sums_are_exact_for_the_longest_vectors_there_may_be(length: float) -> None:
    """All along one axis, so that a block's sum is as large as it can be; odd, so that it shows."""
    z = np.zeros((5000, 4), np.float32)
    z[:, 0] = np.random.default_rng(0).uniform(1.002, length, len(z))
    points = to_lattice(z)
    assert 33_000 < points.max() <= LARGEST
    true = points.astype(np.int64).sum(axis=0)
    assert sums_of(points, np.zeros((1, len(z)), np.int16), 2).sums[0, 0].tolist() == true.tolist()
    centroids = np.array([[[UNIT, 0, 0, 0], [0, UNIT, 0, 0]]], np.int32)
    assert lloyd_step(points, centroids).sums[0, 0].tolist() == true.tolist()
    assert moments_of(points).sums.tolist() == true.tolist()
