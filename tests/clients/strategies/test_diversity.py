"""Sets chosen by scikit-activeml, against slow plain versions; and what it leaves to us."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from skactiveml.utils import check_random_state
from sklearn.metrics import pairwise_distances

from clients.strategies.diversity import (
    PURITY,
    choose_badge,
    choose_coreset,
    choose_probcover,
    choose_typiclust,
    radius_of,
    unit_length,
)
from clients.strategies.pool import Pool
from tests.clients.strategies.pools import pool_of

ALL = [choose_coreset, choose_typiclust, choose_badge, choose_probcover]
DRAW = np.random.default_rng(11)
Choose = Callable[[Pool, int], NDArray[np.int64]]


@pytest.mark.parametrize("choose", ALL)
@pytest.mark.parametrize(
    ("images", "count"), [(30, 1), (30, 7), (30, 24), (30, 30), (2, 2), (1, 1)]
)
def test_so_many_distinct_images(choose: Choose, images: int, count: int) -> None:
    pool = pool_of(DRAW.normal(size=(images, 6)))
    found = choose(pool, count)
    assert found.shape == (count,)
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == count
    assert set(found.tolist()) <= set(range(images))
    assert np.array_equal(found, choose(pool, count))


@pytest.mark.parametrize("choose", ALL)
def test_equal_images_are_not_named_twice(choose: Choose) -> None:
    """scikit-activeml's TypiClust would: k-means finds fewer clusters than it is asked for."""
    features = np.repeat(DRAW.normal(size=(3, 4)), 5, axis=0)
    logits = np.repeat(DRAW.normal(size=(3, 2)), 5, axis=0)
    found = choose(pool_of(features, logits), 12)
    assert len(set(found.tolist())) == 12


@pytest.mark.parametrize("choose", ALL)
def test_nothing_wanted_nothing_chosen(choose: Choose) -> None:
    assert choose(pool_of(DRAW.normal(size=(4, 3))), 0).shape == (0,)


@pytest.mark.parametrize("choose", [choose_coreset, choose_typiclust, choose_badge])
def test_another_seed_may_choose_others(choose: Choose) -> None:
    features = DRAW.normal(size=(40, 5))
    chosen = {tuple(choose(pool_of(features, seed=seed), 8).tolist()) for seed in range(4)}
    assert len(chosen) > 1


def test_coreset_is_farthest_first() -> None:
    features = DRAW.normal(size=(40, 5)).astype(np.float32)
    found = choose_coreset(pool_of(features.astype(np.float64)), 25).tolist()
    distance = pairwise_distances(features.astype(np.float64))
    for rank in range(1, 25):
        nearest = [min(distance[i, j] for j in found[:rank]) for i in range(40)]
        assert found[rank] == int(np.argmax(nearest))


def test_typiclust_takes_the_most_typical_of_each_cluster() -> None:
    directions = np.eye(4)
    features = np.concatenate([d + DRAW.normal(0, 0.05, (9, 4)) for d in directions])
    found = choose_typiclust(pool_of(features), 4)
    assert sorted((found // 9).tolist()) == [0, 1, 2, 3]
    unit = unit_length(features.astype(np.float32)).astype(np.float64)
    for image in found.tolist():
        cluster = range(image // 9 * 9, image // 9 * 9 + 9)
        reach = {
            i: sum(sorted(float(np.linalg.norm(unit[i] - unit[j])) for j in cluster)[:6])
            for i in cluster
        }
        assert image == min(reach, key=lambda i: reach[i])


def test_badge_is_k_means_plus_plus_over_gradients() -> None:
    pool = pool_of(DRAW.normal(size=(40, 5)), DRAW.normal(size=(40, 3)))
    gradients = []
    for p, feature in zip(pool.probabilities, pool.features, strict=True):
        error = p.copy()
        error[p.argmax()] -= 1
        gradients.append(np.outer(error, feature).ravel())
    draw = check_random_state(pool.seed_for("badge"), 41)  # one more than there are images
    squares = np.array([(g**2).sum() for g in gradients])
    expected = [int(squares.argmax())]
    nearest = squares
    for _ in range(19):
        here = np.array([((g - gradients[expected[-1]]) ** 2).sum() for g in gradients])
        nearest = np.minimum(nearest, here)
        expected.append(int(draw.choice(40, p=nearest / nearest.sum())))
    assert choose_badge(pool, 20).tolist() == expected


def test_probcover_covers_greedily() -> None:
    features = np.concatenate([DRAW.normal(c, 0.4, (15, 3)) for c in ([4, 0, 0], [0, 4, 0])])
    pool = pool_of(features)
    found = choose_probcover(pool, 8).tolist()
    distance = pairwise_distances(unit_length(pool.features).astype(np.float64))
    radius = radius_of(distance, np.repeat([0, 1], 15))
    covered: set[int] = set()
    for rank, image in enumerate(found):
        gain = {
            i: sum(1 for j in range(30) if j not in covered and distance[i, j] <= radius)
            for i in range(30)
            if i not in found[:rank]
        }
        assert gain[image] == max(gain.values())
        covered |= {j for j in range(30) if distance[image, j] <= radius}


@pytest.mark.parametrize("seed", range(5))
def test_the_radius_is_the_largest_pure_enough(seed: int) -> None:
    """Against the search over all distances."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(47, 3))
    clusters = (points[:, 0] > 0.3).astype(np.int64)
    distance = pairwise_distances(points)

    def purity(radius: float) -> float:
        pure = [
            all(clusters[j] == clusters[i] for j in range(47) if distance[i, j] <= radius)
            for i in range(47)
        ]
        return sum(pure) / 47

    radius = radius_of(distance, clusters)
    assert purity(radius) >= PURITY
    larger = min(d for d in distance.ravel() if d > radius)
    assert purity(larger) < PURITY


def test_one_cluster_is_covered_at_once() -> None:
    distance = pairwise_distances(DRAW.normal(size=(5, 2)))
    assert radius_of(distance, np.zeros(5)) == distance.max()
