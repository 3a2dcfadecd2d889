"""Strategies that choose a set in a feature space: Core-Set, TypiClust, BADGE, ProbCover.

scikit-activeml has all four; here they get a pool without labels, one query for the whole quota,
one thread and a seed. Where its batch names an image twice (equal images), the place goes to one
drawn from the rest.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.strategies.pool import Pool

PURITY = 0.95
"""Share of balls that must hold images of one cluster only (Yehuda et al. 2022)."""


def choose_coreset(pool: Pool, count: int) -> NDArray[np.int64]:
    """Core-Set (Sener and Savarese, ICLR 2018): greedy k-center, each farthest from those before.

    The first is drawn: nothing is annotated yet.

    Args:
        pool: The site's images.
        count: How many, at most N.

    Returns:
        (count,) distinct indices in rank order.
    """
    from skactiveml.pool import CoreSet

    strategy = CoreSet(random_state=pool.seed_for("coreset"))
    return _query(pool, strategy, pool.features, count)


def choose_typiclust(pool: Pool, count: int) -> NDArray[np.int64]:
    """TypiClust (Hacohen et al., ICML 2022): the most typical image of each of `count` clusters.

    On features of length 1, as in the authors' code; the largest cluster first.

    Args:
        pool: The site's images.
        count: How many, at most N.

    Returns:
        (count,) distinct indices in rank order.
    """
    from skactiveml.pool import TypiClust

    strategy = TypiClust(random_state=pool.seed_for("typiclust"))
    return _query(pool, strategy, unit_length(pool.features), count)


def choose_badge(pool: Pool, count: int) -> NDArray[np.int64]:
    """BADGE (Ash et al., ICLR 2020): k-means++ over gradients of the last layer.

    The gradient is that of the cross-entropy with the predicted class as label,
    (p - e_predicted) x feature: long where the classifier is unsure.

    Args:
        pool: The site's images.
        count: How many, at most N.

    Returns:
        (count,) distinct indices in rank order.
    """
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge

    class Source(SkactivemlClassifier):  # type: ignore[misc]
        """The source's classifier, which has spoken already."""

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> Any:
            return pool.probabilities

    strategy = Badge(random_state=pool.seed_for("badge"))
    return _query(pool, strategy, pool.features, count, clf=Source(), fit_clf=False)


def choose_probcover(pool: Pool, count: int) -> NDArray[np.int64]:
    """ProbCover (Yehuda et al., NeurIPS 2022): greedily cover the most images by balls.

    The balls' radius is the largest at which 95 % of them hold images of one k-means cluster only
    (`radius_of`), with as many clusters as classes, on features of length 1. When all are covered
    the rest is drawn.

    Args:
        pool: The site's images.
        count: How many, at most N.

    Returns:
        (count,) distinct indices in rank order.
    """
    from skactiveml.pool import ProbCover
    from sklearn.metrics import pairwise_distances
    from threadpoolctl import threadpool_limits

    features = unit_length(pool.features)
    seed = pool.seed_for("probcover")
    with threadpool_limits(1):
        distances_NN = pairwise_distances(features.astype(np.float64))
        radius = radius_of(distances_NN, _clusters(features, pool.probabilities.shape[1], seed))
    strategy = ProbCover(deltas=[radius], random_state=seed, distance_func=lambda _: distances_NN)
    return _query(pool, strategy, features, count)


def radius_of(distances_NN: NDArray[np.float64], clusters: NDArray[Any]) -> float:
    """The largest radius at which `PURITY` of the balls hold one cluster only.

    scikit-activeml looks for it on a fixed grid from .2 up, on which supervised features of length
    1 find nothing; the exact one is an order statistic of the distances to the nearest stranger.

    Args:
        distances_NN: Between the images.
        clusters: (N,) cluster of each.

    Returns:
        A distance; the largest there is, if there is one cluster only.
    """
    strange = clusters[:, None] != clusters
    nearest = np.sort(np.where(strange, distances_NN, np.inf).min(axis=1))
    impure = int(np.floor((1 - PURITY) * len(nearest) + 1e-9))
    limit = np.nextafter(nearest[impure], 0.0)
    return float(min(limit, distances_NN.max()))


def unit_length(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _clusters(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    kmeans = KMeans(n_clusters=min(count, len(features)), n_init=10, random_state=seed)
    labels: NDArray[np.int64] = kmeans.fit_predict(features)
    return labels


def _query(
    pool: Pool, strategy: Any, features: NDArray[np.float32], count: int, **more: Any
) -> NDArray[np.int64]:
    """One query of scikit-activeml for the whole batch, nothing annotated before."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if not count:
        return np.empty(0, np.int64)
    unknown = np.full(len(features), np.nan)
    with threadpool_limits(1), warnings.catch_warnings():
        # Equal images give fewer clusters than asked for; `_distinct` fills the places.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # ProbCover's radius is given, so it looks for none and misses its purity.
        warnings.filterwarnings("ignore", "The maximum purity")
        found = strategy.query(features, unknown, batch_size=int(count), **more)
    return _distinct(np.asarray(found, np.int64), pool, count)


def _distinct(found: NDArray[np.int64], pool: Pool, count: int) -> NDArray[np.int64]:
    """The first of each, then a drawn order of the rest, up to `count`."""
    rest = np.random.default_rng(pool.seed_for("rest")).permutation(len(pool))
    return np.array(list(dict.fromkeys([*found.tolist(), *rest.tolist()])), np.int64)[:count]
