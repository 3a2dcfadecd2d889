"""Seeded noise that every part of the phantom draws from.

Everything here is a function of names, never of the order of calls: a frame asked alone, in another
process or in a longer video is the same frame.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

Array = npt.NDArray[np.float32]
TEXTURE_MM = 0.1
_ROWS, _COLUMNS = 512, 1024


def stream(*names: object) -> np.random.Generator:
    """A random generator that depends on ``names`` alone (SHA-256 of their text).

    Args:
        names: whatever tells this use apart, such as seed, probe, patient, purpose.

    Returns:
        A fresh PCG64 generator.
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


class Wave:
    """A smooth random function of a position and of the place along the sweep.

    A sum of cosines: cheap, without a grid, and smooth in both arguments, so that neighbouring
    frames of a video agree.

    Args:
        rng: where frequencies and phases are drawn.
        scale_mm: correlation length across the image.
        along_mm: correlation length along the sweep.
        terms: number of cosines.
    """

    def __init__(
        self, rng: np.random.Generator, scale_mm: float, along_mm: float = 10.0, terms: int = 12
    ) -> None:
        self._across = rng.standard_normal(terms).astype(np.float32) / np.float32(scale_mm)
        self._along = rng.standard_normal(terms).astype(np.float32) / np.float32(along_mm)
        self._phase = rng.uniform(0, 2 * np.pi, terms).astype(np.float32)

    def __call__(self, x: Array, y: float = 0.0) -> Array:
        """The function at positions ``x`` (mm, shape (n,)) and sweep place ``y`` (mm).

        Returns:
            Float32 of shape (n,), zero mean, unit variance over patients.
        """
        phase = self._phase + self._along * np.float32(y)
        terms = np.cos(x[:, None] * self._across[None, :] + phase[None, :])
        scaled = terms.sum(axis=1) * np.float32(np.sqrt(2.0 / len(self._phase)))
        return np.asarray(scaled, dtype=np.float32)

    def at(self, x: float, y: float = 0.0) -> float:
        """The function at one position."""
        return float(self(np.array([x], dtype=np.float32), y)[0])


@lru_cache(maxsize=32)
def _bank(depth_mm: float, width_mm: float, plane: int) -> Array:
    """A periodic Gaussian texture of unit variance, 51.2 x 102.4 mm at 0.1 mm, flattened."""
    rng = stream("texture bank", depth_mm, width_mm, plane)
    white = rng.standard_normal((_ROWS, _COLUMNS), dtype=np.float32)
    frequency_z = fft.fftfreq(_ROWS, TEXTURE_MM)[:, None]
    frequency_x = fft.rfftfreq(_COLUMNS, TEXTURE_MM)[None, :]
    squared = (frequency_z * depth_mm) ** 2 + (frequency_x * width_mm) ** 2
    transfer = np.exp(-2.0 * np.pi**2 * squared / 2.0).astype(np.float32)
    smooth = fft.irfft2(fft.rfft2(white) * transfer, s=(_ROWS, _COLUMNS))
    smooth = (smooth - smooth.mean()) / smooth.std()
    return np.ascontiguousarray(smooth, dtype=np.float32).ravel()


class Texture:
    """A Gaussian texture in tissue coordinates that changes smoothly along the sweep.

    Two planes of a shared bank, at offsets drawn for the patient, are mixed with cosine and sine
    weights: the variance is the same everywhere, the pattern is renewed every ``along_mm``.

    Args:
        rng: where the offsets are drawn.
        depth_mm: correlation length in depth.
        width_mm: correlation length across.
        along_mm: distance along the sweep after which the pattern is a new one.
    """

    def __init__(
        self, rng: np.random.Generator, depth_mm: float, width_mm: float, along_mm: float = 4.0
    ) -> None:
        self._banks = tuple(_bank(depth_mm, width_mm, plane) for plane in range(2))
        self._along = along_mm
        self._offsets = rng.integers(0, (_ROWS, _COLUMNS), (64, 2))

    def __call__(self, x: Array, z: Array, y: float) -> Array:
        """The texture at positions ``x``, ``z`` (mm, one shape), float32 of unit variance."""
        place = y / self._along
        first = int(np.floor(place))
        angle = (place - first) * np.pi / 2
        row = (z * np.float32(1 / TEXTURE_MM)).astype(np.int32)
        column = (x * np.float32(1 / TEXTURE_MM)).astype(np.int32)
        total: Any = np.float32(0)
        for plane, weight in ((first, np.cos(angle)), (first + 1, np.sin(angle))):
            if weight < 1e-6:
                continue
            down, right = (int(v) for v in self._offsets[plane % len(self._offsets)])
            # Both sides are powers of two, so wrapping is a bit mask (also for negatives).
            index = ((row + down) & (_ROWS - 1)) * _COLUMNS + ((column + right) & (_COLUMNS - 1))
            total = total + np.float32(weight) * self._banks[plane % 2].take(index)
        return np.asarray(total, dtype=np.float32)
