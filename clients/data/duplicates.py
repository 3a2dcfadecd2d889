"""Finds near duplicates: the same picture scaled, recompressed, re-gained or slightly cropped."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

HASH_SIDE = 16
BITS = HASH_SIDE * HASH_SIDE
NEAR_BITS = 44
"""Bits that may differ. BUSI's known duplicates differ by 20 in the median, and pairs of up to 42
that no list names proved by eye to be duplicates; the nearest two patients of BUS-BRA are 70
apart."""

BLOCK = 1024


def perceptual_hash(grey_HW: NDArray[Any]) -> NDArray[np.bool_]:
    """The picture's coarse pattern: signs of its 16 x 16 lowest cosine coefficients.

    Each is compared with their median, so brightness and contrast do not matter; the picture's
    shape is squeezed to a square, so the scale does not either.

    Args:
        grey_HW: Grey values on any scale.

    Returns:
        (256,) bool; False throughout for a picture of one grey.
    """
    size = (4 * HASH_SIDE, 4 * HASH_SIDE)
    picture = Image.fromarray(np.asarray(grey_HW, dtype=np.float32))
    small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    low = dctn(small, norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()
    low[0] = np.median(low[1:])  # the mean grey says nothing about the pattern
    bits: NDArray[np.bool_] = low > low[0] + 1e-3
    return bits


def near_pairs(hashes_ND: NDArray[np.bool_], *, bits: int = NEAR_BITS) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, whose hashes differ in at most `bits` of 256 places.

    Pictures of one grey (an empty hash) are left out: they resemble each other without meaning.
    """
    used = np.flatnonzero(hashes_ND.any(axis=1))
    signs = np.where(hashes_ND[used], np.float32(1), np.float32(-1))
    for start in range(0, len(used), BLOCK):
        # The product of signs is BITS - 2 x distance, exact in float32.
        distance = (BITS - signs[start : start + BLOCK] @ signs[start:].T) / 2
        for a, b in zip(*np.nonzero(distance <= bits), strict=True):
            if a < b:
                yield int(used[start + a]), int(used[start + b])
