"""Whole numbers, and angles that follow from them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.selection.lattice import (
    CELLS,
    UNIT,
    cell_values,
    exponent_of,
    histogram,
    separations,
    squares,
    to_cells,
    to_lattice,
)


def unit_vectors(number: int, dimensions: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).standard_normal((number, dimensions))
    unit: np.ndarray = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit.astype(np.float32)


def test_points_are_the_nearest_whole_multiples() -> None:
    z = unit_vectors(300, 24)
    points = to_lattice(z)
    assert points.dtype == np.float32
    wanted = [[round(Fraction(float(v)) * UNIT) for v in row] for row in z]
    assert points.tolist() == wanted
    own = z.copy()
    assert to_lattice(own, out=own) is own
    assert own.tolist() == wanted


def test_dot_products_are_the_true_ones_in_any_order() -> None:
    a, b = to_lattice(unit_vectors(5000, 256)).astype(np.float64)[-2:]
    true = sum(int(p) * int(q) for p, q in zip(a, b, strict=True))
    order = np.random.default_rng(1).permutation(256)
    assert float(a @ b) == float(a[order] @ b[order]) == true
    assert squares(np.stack([a, b]).astype(np.float32)).tolist() == [
        sum(int(v) ** 2 for v in row) for row in (a, b)
    ]


@pytest.mark.parametrize("degrees", [0.0, 0.01, 1.0, 45.0, 90.0, 135.0, 179.99, 180.0])
def test_angles_are_right_at_both_ends(degrees: float) -> None:
    angle = math.radians(degrees)
    z = np.array([[1, 0, 0], [math.cos(angle), math.sin(angle), 0]], np.float64)
    a, b = to_lattice(z).astype(np.float64)
    (found,) = separations(np.array([a @ b]), np.array([a @ a]), np.array([b @ b]), "angle")
    assert found == pytest.approx(angle, abs=3e-5)  # the lattice itself is 1.5e-5 coarse
    if degrees in (0.0, 180.0):
        assert found == angle


def test_distances_are_euclidean_and_end_at_two() -> None:
    z = 0.7 * unit_vectors(50, 8)
    points = to_lattice(z, metric="euclidean").astype(np.float64)
    own = np.vecdot(points, points)
    found = separations(points @ points.T, own[:, None], own, "euclidean")
    true = np.linalg.norm(z[:, None].astype(np.float64) - z, axis=2)
    np.testing.assert_allclose(found, true, atol=2e-4)
    far = np.array([[1.0, 0.0], [-1.0, 0.0]]) * UNIT
    assert separations(np.array([far[0] @ far[1]]), np.full(1, UNIT**2), np.full(1, UNIT**2),
                       "euclidean").tolist() == [2.0]  # fmt: skip


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=5),
    st.lists(st.floats(0.25, 1.0, width=32), min_size=5, max_size=5),
)
def test_the_exponent_fits_and_is_the_smallest(powers: list[int], sizes: list[float]) -> None:
    z = np.array(
        [[size * 2.0**power, 0.0] for power, size in zip(powers, sizes, strict=False)], np.float32
    )
    exponent = exponent_of(z)
    largest = Fraction(float(np.abs(z).max()))
    assert largest <= Fraction(2) ** exponent
    assert largest > Fraction(2) ** (exponent - 1)
    assert exponent == max(exponent_of(row[None]) for row in z)
    points = to_lattice(z, metric="euclidean", exponent=exponent)
    assert np.abs(points).max() <= UNIT


def test_no_image_needs_no_exponent_and_zeros_none() -> None:
    assert exponent_of(np.zeros((0, 3), np.float32)) == exponent_of(np.zeros((2, 3))) == -64


def test_cells_cover_the_range_and_their_values_lie_inside() -> None:
    top = math.pi
    middles = cell_values(top)
    assert to_cells(middles, top).tolist() == list(range(CELLS))
    assert to_cells(np.array([0.0, top, top / 2, np.nextafter(top / 2, 0)]), top).tolist() == [
        0, CELLS - 1, CELLS // 2, CELLS // 2 - 1,
    ]  # fmt: skip
    counts = histogram(np.array([0, 3, 3], np.int16))
    assert (counts[0], counts[3], counts.sum(), counts.shape) == (1, 2, 3, (CELLS,))


def test_what_is_no_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="2\\^1"):
        to_lattice(np.array([[3.0, 0.0]]), metric="euclidean", exponent=1)
    with pytest.raises(ValueError, match="shape"):
        to_lattice(np.zeros(3))
