import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import metrics


def disc(row: float, column: float, radius: float, side: int = 40) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    mask: np.ndarray = ((y - row) ** 2 + (x - column) ** 2 <= radius**2)[None, None]
    return mask


def square(top: int, left: int, size: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((1, 1, side, side), bool)
    mask[..., top : top + size, left : left + size] = True
    return mask


def test_overlap_by_hand() -> None:
    a, b = square(2, 2, 4), square(2, 4, 4)  # 16 pixels each, 8 in common
    assert metrics.dice(a, b)[0, 0] == pytest.approx((16 + 1) / (32 + 1))
    assert metrics.iou(a, b)[0, 0] == pytest.approx((8 + 1) / (24 + 1))
    assert metrics.dice(a, b, smooth=0)[0, 0] == pytest.approx(0.5)
    assert metrics.area(a)[0, 0] == pytest.approx(16 / 400)


def test_empty_masks() -> None:
    nothing, something = np.zeros((1, 1, 30, 40), bool), np.ones((1, 1, 30, 40), bool)
    assert metrics.dice(nothing, nothing)[0, 0] == metrics.iou(nothing, nothing)[0, 0] == 1
    assert metrics.dice(nothing, something)[0, 0] == pytest.approx(1 / 1201)
    assert metrics.hd95(nothing, nothing)[0, 0] == 0
    assert metrics.hd95(nothing, something)[0, 0] == metrics.hd95(something, nothing)[0, 0] == 50


def test_hd95_is_the_shift_of_a_shifted_square() -> None:
    # Every outline pixel of the left edge is 3 away from the other's left edge.
    assert metrics.hd95(square(4, 4, 9), square(4, 7, 9))[0, 0] == pytest.approx(3.0)
    assert metrics.hd95(square(4, 4, 9), square(4, 4, 9))[0, 0] == 0


def test_hd95_of_discs_is_the_difference_of_their_radii() -> None:
    assert metrics.hd95(disc(20, 20, 8), disc(20, 20, 13))[0, 0] == pytest.approx(5, abs=0.5)


def test_hd95_ignores_one_stray_pixel_in_a_long_outline() -> None:
    stray = disc(20, 20, 12).copy()
    stray[0, 0, 0, 0] = True
    assert metrics.hd95(stray, disc(20, 20, 12))[0, 0] == pytest.approx(0)


def test_images_and_classes_stay_apart() -> None:
    a = np.concatenate([square(2, 2, 4), square(9, 9, 5)], axis=1).repeat(3, axis=0)
    b = a.copy()
    b[1, 0] = False
    scores = metrics.dice(a, b)
    assert scores.shape == (3, 2)
    assert scores[1, 0] == pytest.approx(1 / 17)
    assert np.delete(scores.ravel(), 2) == pytest.approx(1)
    assert metrics.hd95(a, b)[1, 0] == pytest.approx(np.hypot(20, 20))


def test_agreement_is_the_mean_over_pairs() -> None:
    a, b, c = square(2, 2, 4), square(2, 2, 4), square(10, 10, 4)
    assert metrics.agreement([a, b])[0, 0] == 1
    assert metrics.agreement([a, b, c])[0, 0] == pytest.approx((1 + 2 / 33) / 3)
    with pytest.raises(ValueError, match="two branches"):
        metrics.agreement([a])


def test_confidence_at_the_ends_and_in_the_middle() -> None:
    half, certain = np.full((1, 1, 4, 4), 0.5), np.zeros((1, 1, 4, 4))
    certain[..., :2] = 1.0
    assert metrics.confidence(half)[0, 0] == pytest.approx(0)
    assert metrics.confidence(certain)[0, 0] == pytest.approx(1)
    assert metrics.confidence(np.full((1, 1, 2, 2), 0.11))[0, 0] == pytest.approx(0.5, abs=1e-3)


masks = hnp.arrays(np.bool_, (2, 2, 6, 7))


@given(masks, masks)
def test_overlap_properties(a: np.ndarray, b: np.ndarray) -> None:
    dice, iou = metrics.dice(a, b), metrics.iou(a, b)
    assert ((dice > 0) & (dice <= 1) & (iou > 0) & (iou <= dice + 1e-12)).all()
    assert (dice == metrics.dice(b, a)).all()
    assert (metrics.dice(a, a) == 1).all()


@given(hnp.arrays(np.float64, (1, 1, 3, 3), elements=st.floats(0, 1)))
def test_confidence_is_finite_and_symmetric(p: np.ndarray) -> None:
    value = metrics.confidence(p)
    assert -1e-9 <= value[0, 0] <= 1
    assert metrics.confidence(1 - p) == pytest.approx(value, abs=1e-6)
