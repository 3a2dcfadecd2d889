"""What both sides say of reconstructions: histograms of grey and similarity (P2 Table 1, Fig. 1).

Only counts and sums cross, so what the server says of all sites together is what the pooled images
would give.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

GREY_CELLS = 256
SIMILARITY_CELLS = 64
SIMILARITY_RANGE = (-1.0, 1.0)

Counts = NDArray[np.int64]


def similarity_cells(similarity_N: NDArray[np.floating]) -> Counts:
    """(64,) images by cosine similarity to the source mean, over `SIMILARITY_RANGE`."""
    low, high = SIMILARITY_RANGE
    clipped = np.clip(np.asarray(similarity_N, np.float64), low, high)
    return np.histogram(clipped, SIMILARITY_CELLS, SIMILARITY_RANGE)[0].astype(np.int64)


def wasserstein(a_256: Counts, b_256: Counts) -> float:
    """Wasserstein-1 distance of two distributions of grey levels, in grey levels of 255.

    Args:
        a_256: (256,) pixels by grey level, some at least.
        b_256: The other's.

    Returns:
        In [0, 255]: how far a pixel's grey has to move on average. Exact for whole pixels.
    """
    a = np.cumsum(np.asarray(a_256, np.float64)) / np.sum(a_256)
    b = np.cumsum(np.asarray(b_256, np.float64)) / np.sum(b_256)
    return float(np.abs(a - b).sum())


def pooled(parts: Iterable[tuple[int, float, float]]) -> tuple[int, float, float]:
    """Count, mean and standard deviation of all sites' images out of each site's.

    Args:
        parts: (images, mean, population standard deviation) of each site.
    """
    kept = [part for part in parts if part[0]]
    images = sum(count for count, _, _ in kept)
    mean = sum(count * value for count, value, _ in kept) / images
    variance = sum(count * (deviation**2 + (value - mean) ** 2) for count, value, deviation in kept)
    return images, mean, math.sqrt(variance / images)
