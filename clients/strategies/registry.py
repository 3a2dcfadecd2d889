"""The strategies by name, and somebody's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.strategies.diversity import (
    choose_badge,
    choose_coreset,
    choose_probcover,
    choose_typiclust,
)
from clients.strategies.pointwise import score_bald, score_entropy, score_lfosa, score_random
from clients.strategies.pool import Pool
from clients.strategies.vaal import choose_vaal
from common.config.selection import Select
from common.errors import InputError
from common.plugins import load_plugin

Score = Callable[[Pool], NDArray[np.float64]]
Choose = Callable[[Pool, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Strategy:
    """One way of choosing. Exactly one of `score` and `choose` is there.

    Attributes:
        name: As arms are named, or `package.module:name`.
        score: (N,) finite float64 of a pool; the lowest is chosen first.
        choose: (count,) distinct indices of a pool, in rank order.
    """

    name: str
    score: Score | None = None
    choose: Choose | None = None

    @property
    def pointwise(self) -> bool:
        """Whether one threshold over all sites can cut its scores."""
        return self.score is not None

    @property
    def federated(self) -> str:
        """How the sites choose together, in the report's words."""
        return "one threshold over all sites" if self.pointwise else "per site, by quota"

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """What `score` gives, held to its promise.

        Raises:
            InputError: If it is not (N,) finite numbers.
        """
        assert self.score is not None
        found = np.asarray(self.score(pool))
        if found.shape != (len(pool),) or found.dtype.kind not in "fiu":
            raise InputError(
                f"{self.name}: score gives {found.dtype} {found.shape}, not ({len(pool)},) numbers"
            )
        if not np.isfinite(found).all():
            raise InputError(f"{self.name}: score gives NaN or infinity")
        return found.astype(np.float64)

    def chosen(self, pool: Pool, count: int) -> NDArray[np.int64]:
        """What `choose` gives, held to its promise.

        Args:
            pool: The site's images.
            count: The site's quota, at most N.

        Raises:
            InputError: If it is not (count,) distinct indices.
        """
        assert self.choose is not None
        found = np.asarray(self.choose(pool, count))
        if found.shape != (count,) or (count and found.dtype.kind not in "iu"):
            raise InputError(
                f"{self.name}: choose gives {found.dtype} {found.shape}, not ({count},) indices"
            )
        if len(np.unique(found)) < count or ((found < 0) | (found >= len(pool))).any():
            raise InputError(
                f"{self.name}: choose names an image twice, or one that is not in the pool"
            )
        return found.astype(np.int64)


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("random", score=score_random),
        Strategy("vaal", choose=choose_vaal),
        Strategy("coreset", choose=choose_coreset),
        Strategy("entropy", score=score_entropy),
        Strategy("bald", score=score_bald),
        Strategy("lfosa", score=score_lfosa),
        Strategy("typiclust", choose=choose_typiclust),
        Strategy("badge", choose=choose_badge),
        Strategy("probcover", choose=choose_probcover),
    )
}
"""In the order of P2 Table 2, then those that P2 does not have."""


def strategy_of(name: str) -> Strategy:
    """A strategy by its name, or your own.

    Args:
        name: One of `STRATEGIES`, or `package.module:name` of an object (or a class, which is
            called without arguments) with either `score` or `choose`.

    Raises:
        InputError: If there is none, or it has both methods or neither.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name:
        raise InputError(f"arms: {name!r} is no strategy; there are {', '.join(STRATEGIES)}")
    found = _instance(name)
    methods = {kind: getattr(found, kind, None) for kind in ("score", "choose")}
    own = {kind: method for kind, method in methods.items() if callable(method)}
    if len(own) != 1:
        raise InputError(
            f"arms: {name!r} must have score(pool) or choose(pool, count), and not both"
        )
    return Strategy(name, **own)


def check_strategy(name: str) -> None:
    """Import somebody's own strategy and try it on a small made-up pool, twice.

    Raises:
        InputError: If it is not there, or not what docs/extending.md says.
    """
    strategy = strategy_of(name)
    try:
        first, second = (_tried(strategy, _made_up()) for _ in range(2))
    except InputError:
        raise
    except Exception as error:  # somebody's code may raise anything
        raise InputError(f"arms: {name!r}: {type(error).__name__}: {error}") from None
    if not np.array_equal(first, second):
        raise InputError(
            f"arms: {name!r} answers an equal pool in two ways; draw from pool.seed only"
        )


def _tried(strategy: Strategy, pool: Pool) -> NDArray[Any]:
    if strategy.pointwise:
        return strategy.scores(pool)
    return np.concatenate([strategy.chosen(pool, count) for count in (1, 5, len(pool))])


def _instance(name: str) -> Any:
    found = load_plugin(name, "arms")
    if not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:  # somebody's code may raise anything
        raise InputError(f"arms: {name!r}: {type(error).__name__}: {error}") from None


def _made_up(images: int = 12, classes: int = 2, features: int = 8, side: int = 32) -> Pool:
    """A pool of noise, always the same."""
    draw = np.random.default_rng(0)

    def dropout(samples: int) -> NDArray[np.float64]:
        return np.random.default_rng(1).dirichlet(np.ones(classes), (samples, images))

    logits = draw.normal(size=(images, classes))
    powers = np.exp(logits)
    return Pool(
        images=draw.integers(0, 256, (images, side, side), dtype=np.uint8),
        features=draw.normal(size=(images, features)).astype(np.float32),
        logits=logits,
        probabilities=powers / powers.sum(axis=1, keepdims=True),
        dropout=dropout,
        seed=0,
        settings=Select(),
    )
