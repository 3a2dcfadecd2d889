"""The lattice: embeddings as whole multiples of 2^-15, and what is exact on it.

Floating-point sums depend on the order of their terms, and two hospitals never add in the order of
one. So each embedding is rounded once, by itself, to whole numbers. A vector may be a little longer
than 1, so no coordinate is beyond `LARGEST`, which is 1.1 % more than 2^15. Then

- a product of two coordinates is a whole number below 2^31, and a dot product stays, in every
  partial sum, below |x| |y| (Cauchy-Schwarz), 2^31 again; so do squared lengths. float64 holds all
  whole numbers up to 2^53: dot products are EXACT in any order, with or without fused multiply-add,
  on any machine;
- sums over images are whole numbers as well; int64 holds those of 2^47 images, and of the squares
  of 2^32.

Angles follow from exact whole numbers by a division, a square root and an arctangent that rounds
the same everywhere (common.selection.arithmetic). What is exact starts at the embedding: the same
image must have the same one, wherever it lies (frozen network, eval mode, the same software).

Shape legend: N images, D dimensions, k clusters.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.selection.arithmetic import Floats, arctan

Metric = Literal["angle", "euclidean"]
"""Angles between unit vectors, or distances of those that are not (P2 Table 3, +CL)."""

Points = NDArray[np.float32]
"""(N, D) whole numbers within +-LARGEST: float32 holds them exactly and multiplies fastest."""

UNIT = 32768
CELLS = 4096
CHUNK = 2048
"""Rows at a time: 2 MB at 256 dimensions, which stays in the processor's cache."""

_LENGTH = 0.01
"""A unit vector may be this much too long or short: rounding in half precision is .004."""

LONGEST = 1.0 + _LENGTH + 0.001
"""No vector is longer, before it is rounded: `_LENGTH` is measured in float32, which is good to
.0003 at 4096 dimensions."""

LARGEST = math.ceil(LONGEST * UNIT)
"""No coordinate of a lattice point is larger."""


def top_of(metric: Metric) -> float:
    """Largest distance there is: pi, or 2 (vectors of length 1 at most)."""
    return math.pi if metric == "angle" else 2.0


def chunks(rows: int, size: int = CHUNK) -> Iterator[slice]:
    """Consecutive slices that cover so many rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def to_lattice(
    z: NDArray[np.floating],
    *,
    metric: Metric = "angle",
    exponent: int = 0,
    out: Points | None = None,
) -> Points:
    """Round embeddings to whole multiples of 2^-15, ties to even.

    Args:
        z: (N, D), finite; unit vectors for angles (to 1 %), else of length up to 2^exponent.
        metric: What they will be compared by.
        exponent: Embeddings are divided by 2^exponent first, which is exact; agreed by all sites.
        out: (N, D) float32 to write to; may be `z` itself.

    Returns:
        The lattice points.

    Raises:
        ValueError: If a value is not finite, or a length is not what the metric needs.
    """
    if z.ndim != 2:
        raise ValueError(f"embeddings have shape {z.shape}; (images, dimensions) is needed")
    points = np.empty(z.shape, np.float32) if out is None else out
    scale = float(UNIT) * 2.0**-exponent
    for rows in chunks(len(z)):
        part = points[rows]
        np.multiply(z[rows], np.float32(scale), out=part, casting="same_kind")
        length = np.sqrt(np.vecdot(part, part)) / UNIT
        if not np.isfinite(length).all():
            raise ValueError("an embedding holds NaN or infinity")
        if metric == "angle" and not (np.abs(length - 1) <= _LENGTH).all():
            wrong = float(length[np.abs(length - 1).argmax()])
            raise ValueError(f"an embedding has length {wrong:.4g}; angles need unit vectors")
        if metric == "euclidean" and not (length <= 1 + _LENGTH).all():
            raise ValueError(f"an embedding is longer than 2^{exponent}")
        np.rint(part, out=part)
    return points


def exponent_of(z: NDArray[np.floating]) -> int:
    """The smallest e with every embedding's length at most 2^e, within [-64, 64].

    Each length is added up in the order of the dimensions, so it does not depend on which other
    images there are; the largest over the sites is the exponent of the pooled data.

    Args:
        z: (N, D), finite; -64 for no image at all.
    """
    largest = 0.0
    for rows in chunks(len(z)):
        square = np.zeros(len(z[rows]))
        for column in z[rows].T.astype(np.float64):
            square += column * column
        largest = max(largest, float(square.max()))
    mantissa, power = math.frexp(largest)  # the square is mantissa * 2^power, mantissa in [.5, 1)
    exponent = (power - 1) // 2 if mantissa == 0.5 and power % 2 else -(-power // 2)
    return min(max(exponent, -64), 64) if largest else -64


def squares(points: Points) -> Floats:
    """(N,) squared lengths, exact."""
    result = np.empty(len(points))
    for rows in chunks(len(points)):
        part = points[rows].astype(np.float64)
        result[rows] = np.vecdot(part, part)
    return result


def separations(dots: Floats, squares_a: Floats, squares_b: Floats, metric: Metric) -> Floats:
    """Angles, or distances, from exact dot products and squared lengths (shapes broadcast).

    The angle is theta = 2 atan(|a - b| / |a + b|) in [0, pi], accurate at both ends where the arc
    cosine is not; both squared lengths in it are exact whole numbers. Equal points are exactly 0
    apart. The distance is |a - b| 2^-15, at most 2.
    """
    total = squares_a + squares_b
    twice = 2.0 * dots
    if metric == "euclidean":
        return np.minimum(np.sqrt(total - twice) / UNIT, 2.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((total - twice) / (total + twice))
    return 2.0 * arctan(np.where(total == 0.0, 0.0, ratio))


def to_cells(values: Floats, top: float) -> NDArray[np.int16]:
    """Which of the 4096 equal cells of [0, top] each value lies in; the top belongs to the last."""
    return np.minimum(values * (CELLS / top), CELLS - 1).astype(np.int16)


def cell_values(top: float) -> Floats:
    """(4096,) the middle of each cell of [0, top]."""
    return (np.arange(CELLS, dtype=np.float64) + 0.5) * (top / CELLS)


def histogram(cells: NDArray[np.int16]) -> NDArray[np.int64]:
    """(4096,) images in each cell."""
    return np.bincount(cells, minlength=CELLS).astype(np.int64)
