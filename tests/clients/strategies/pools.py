"""Pools made of numbers, with no network behind them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clients.strategies.pool import Pool
from common.config.selection import Select


def no_passes(samples: int) -> NDArray[np.float64]:
    """For strategies that must not ask for dropout."""
    raise AssertionError("asked for dropout")


def pool_of(
    features: NDArray[np.float64] | None = None,
    logits: NDArray[np.float64] | None = None,
    images: NDArray[np.uint8] | None = None,
    dropout: Callable[[int], NDArray[np.float64]] = no_passes,
    seed: int = 0,
    **settings: int,
) -> Pool:
    """A pool of what is given; the rest is noise."""
    given = [part for part in (features, logits, images) if part is not None]
    count, draw = len(given[0]), np.random.default_rng(7)
    logits = draw.normal(size=(count, 2)) if logits is None else logits
    features = draw.normal(size=(count, 6)) if features is None else features
    images = draw.integers(0, 256, (count, 32, 32), np.uint8) if images is None else images
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Pool(
        images=images,
        features=features.astype(np.float32),
        logits=logits,
        probabilities=powers / powers.sum(axis=1, keepdims=True),
        dropout=dropout,
        seed=seed,
        settings=Select(**settings),  # type: ignore[arg-type]
    )
