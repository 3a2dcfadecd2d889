"""What the minimum cohort stops, and what it lets through."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cohort import (
    Reported,
    far_enough,
    guarded_moments,
    guarded_step,
    merge_cells,
    merge_clusters,
    settle,
)
from common.errors import InputError
from common.selection.assignment import Assignment, lloyd_step, sums_of
from common.selection.lattice import to_lattice


def points_of(number: int, seed: int, dimensions: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((3, dimensions))
    z = means[rng.integers(3, size=number)] + rng.standard_normal((number, dimensions))
    return to_lattice((z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32))


def one_moves(points: np.ndarray) -> list[np.ndarray]:
    """Two blocks of centroids, as of consecutive iterations, between which one image moves."""
    rng = np.random.default_rng(1)
    first = points[None, [0, 1]].astype(np.int32)
    while True:
        second = (first + rng.integers(-3000, 3000, size=first.shape)).astype(np.int32)
        before, after = (Assignment(points).labels_for(own)[0] for own in (first, second))
        if (before != after).sum() == 1:
            return [first, second]


def test_the_difference_of_two_sums_is_an_embedding_and_a_cohort_stops_it() -> None:
    points = points_of(60, 0)
    asked = one_moves(points)
    nearest = [Assignment(points).labels_for(own)[0] for own in asked]
    victim = points[np.flatnonzero(nearest[0] != nearest[1])[0]]

    def attack(answers: list[np.ndarray]) -> np.ndarray:
        difference: np.ndarray = np.abs(answers[0] - answers[1])
        return difference

    plain = [lloyd_step(points, centroids).sums[0, 0] for centroids in asked]
    assert attack(plain).tolist() == np.abs(victim).tolist()
    reported = Reported.of_whole(len(points))
    guarded = [guarded_step(points, centroids, 5, reported).sums[0, 0] for centroids in asked]
    assert not attack(guarded).any()
    np.testing.assert_array_equal(guarded[0], plain[0])  # what is reported is true


def test_holding_back_one_cluster_of_three_would_not_do() -> None:
    """Five images swap between a and b, one goes from b to c: only c is too near its old self."""
    before = np.repeat(np.array([0, 1, 2], np.int16), 12)
    after = before.copy()
    after[:5], after[12:18] = 1, 0
    after[18] = 2
    assert (after[before == 2] == 2).all()
    assert not far_enough(before[None], after, 5)
    points = points_of(36, 1)
    sums = [sums_of(points, own[None], 3).sums[0] for own in (before, after)]
    # What a server would do with a and b alone, and the whole that it knows anyway:
    isolated = points.sum(axis=0) - sums[1][0] - sums[1][1] - sums[0][2]
    assert isolated.tolist() == points[18].tolist()


def unions(labels: np.ndarray) -> list[set[int]]:
    clusters = [set(np.flatnonzero(labels == c).tolist()) for c in range(int(labels.max()) + 1)]
    return [
        set().union(*(own for own, taken in zip(clusters, chosen, strict=True) if taken))
        for chosen in product((False, True), repeat=len(clusters))
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_far_enough_is_what_trying_all_unions_says(data: st.DataObject) -> None:
    number, cohort = data.draw(st.integers(6, 16)), data.draw(st.integers(1, 4))
    draws = [
        np.array(data.draw(st.lists(st.integers(0, 3), min_size=number, max_size=number)), np.int16)
        for _ in range(2)
    ]
    points = points_of(number, 0, 4)
    centroids = points[:4].astype(np.int32)
    first, second = (merge_clusters(points, own, centroids, cohort) for own in draws)
    smallest = [len(a ^ b) for a in unions(first) for b in unions(second) if a != b]
    assert far_enough(first[None], second, cohort) == (min(smallest) >= cohort)
    whole = np.zeros_like(first)
    known = np.stack([whole, first])
    settled = settle(points, second, centroids, cohort, known)
    if settled is not None:
        assert far_enough(known, settled, cohort)
        if far_enough(known, second, cohort):
            assert (settled == second).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_no_two_reports_stand_for_fewer_than_the_cohort(seed: int, cohort: int) -> None:
    rng = np.random.default_rng(seed)
    points = points_of(int(rng.integers(12, 40)), seed)
    reported = Reported.of_whole(len(points))
    centroids = points[rng.integers(len(points), size=(3, 4))].astype(np.int32)
    for _ in range(6):
        answer = guarded_step(points, centroids, cohort, reported)
        assert (answer.counts.sum(axis=1) == len(points)).all()
        assert ((answer.counts == 0) | (answer.counts >= cohort)).all()
        assert (answer.sums.sum(axis=1) == points.sum(axis=0)).all()
        centroids = np.clip(
            centroids + rng.integers(-400, 400, size=centroids.shape), -32768, 32768
        ).astype(np.int32)
    for place, own in enumerate(reported.partitions):
        for other in reported.partitions[:place]:
            assert min(len(a ^ b) for a in unions(own) for b in unions(other) if a != b) >= cohort


def test_a_repeated_request_gets_the_identical_answer_from_the_file(tmp_path: Path) -> None:
    points = points_of(50, 3)
    path = tmp_path / "cohort" / "reported.npz"
    rng = np.random.default_rng(3)
    asked = [points[rng.integers(50, size=(2, 4))].astype(np.int32) for _ in range(4)]
    answers = []
    for centroids in asked:
        reported = Reported.read(path, 50)
        answers.append(guarded_step(points, centroids, 5, reported))
        reported.write(path)
    again = Reported.read(path, 50)
    before = len(again.partitions)
    for centroids, answer in zip(asked, answers, strict=True):
        repeated = guarded_step(points, centroids, 5, again)
        assert repeated.sums.tobytes() == answer.sums.tobytes()
        assert repeated.counts.tobytes() == answer.counts.tobytes()
    assert len(again.partitions) == before
    assert [file.name for file in path.parent.iterdir()] == ["reported.npz"]


def test_a_site_below_the_cohort_says_nothing() -> None:
    points = points_of(4, 0)
    moments = guarded_moments(points, 5)
    assert (moments.count, int(np.abs(moments.sums).sum()), int(moments.squares.sum())) == (0, 0, 0)
    answer = guarded_step(points, points[None, :2].astype(np.int32), 5, Reported.of_whole(4))
    assert not answer.sums.any()
    assert not answer.counts.any()
    assert guarded_moments(points, 4).count == 4


def test_small_clusters_go_where_they_are_next_nearest() -> None:
    points = to_lattice(
        np.array([[1, 0], [1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [0, 1], [-1, 0]], np.float32)
    )
    centroids = to_lattice(np.array([[1, 0], [0, 1], [-1, 0]], np.float32)).astype(np.int32)
    labels = np.array([0, 0, 0, 1, 1, 1, 2], np.int16)
    assert merge_clusters(points, labels, centroids, 2).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert merge_clusters(points, labels, centroids, 4).tolist() == [1] * 7  # smallest first
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 8))
def test_cells_keep_their_images_in_order_or_say_nothing(cells: list[int], cohort: int) -> None:
    counts = np.array(cells, np.int64)
    merged = merge_cells(counts, cohort)
    assert ((merged == 0) | (merged >= cohort)).all()
    assert merged.sum() == (counts.sum() if counts.sum() >= cohort else 0)
    if cohort <= 1:
        assert merged.tolist() == cells
    stacked = merge_cells(np.stack([counts, counts[::-1]]), cohort)
    assert stacked[0].tolist() == merged.tolist()


def test_too_many_clusters_to_hold_against_each_other() -> None:
    points = points_of(30, 0)
    with pytest.raises(InputError, match="at most 12"):
        guarded_step(points, points[None, :13].astype(np.int32), 5, Reported.of_whole(30))
