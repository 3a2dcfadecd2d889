import numpy as np
import pytest
from numpy.typing import NDArray

from clients.data.preprocess import binary_mask, resize, square_image, square_mask, to_grey8


def plain_triangle(plane: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The antialiased triangle filter written out, one output pixel at a time."""
    size = plane.shape[0]
    scale = size / side
    width = max(scale, 1.0)
    weights = np.zeros((side, size))
    for out in range(side):
        centre = (out + 0.5) * scale
        for i in range(size):
            weights[out, i] = max(0.0, 1 - abs(i + 0.5 - centre) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ plane @ weights.T


@pytest.mark.parametrize("side", [16, 37, 96])
def test_the_resizer_is_the_triangle_filter(side: int) -> None:
    plane = np.random.default_rng(0).random((64, 64))
    got = resize(plane.astype(np.float32), side)
    assert np.abs(got - plain_triangle(plane, side)).max() < 1e-5


def test_padding_lies_right_and_below() -> None:
    grey = np.full((32, 64), 200, np.uint8)
    square = square_image(grey, 32)
    assert square.shape == (32, 32)
    assert square.dtype == np.uint8
    assert (square[:15] == 200).all()
    assert (square[17:] == 0).all()
    tall = square_image(grey.T, 32)
    assert (tall == square.T).all()


def test_an_image_of_the_right_size_is_untouched() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (48, 48), dtype=np.uint8)
    assert (square_image(grey, 48) == grey).all()


def test_depths_agree() -> None:
    grey = np.random.default_rng(2).integers(0, 256, (40, 50), dtype=np.uint8)
    wide = grey.astype(np.uint16) * np.uint16(257)
    real = grey.astype(np.float32) / 255
    assert (square_image(wide, 32) == square_image(grey, 32)).all()
    assert np.abs(square_image(real, 32).astype(int) - square_image(grey, 32)).max() <= 1


def test_twelve_bits_in_sixteen_are_recognised() -> None:
    twelve = np.array([[0, 4095]], np.uint16)
    assert to_grey8(twelve).max() == pytest.approx(255)
    sixteen = np.array([[0, 4096]], np.uint16)
    assert to_grey8(sixteen).max() == pytest.approx(255 * 4096 / 65535)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 0], [0, 1, 0]),
        ([0, 255, 3], [0, 1, 0]),
        ([0, 127, 128], [0, 0, 1]),
        ([0, 1, 3], [0, 1, 1]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_what_counts_as_foreground(values: list[int], expected: list[int]) -> None:
    assert binary_mask(np.array([values], np.uint8)).tolist() == [expected]
    assert binary_mask(np.array([[0, 65535, 300]], np.uint16)).tolist() == [[0, 1, 0]]


def test_masks_stay_on_their_image() -> None:
    """A bright square and its mask land on the same pixels, however the side divides."""
    for side in (32, 57, 224):
        grey = np.zeros((100, 130), np.uint8)
        grey[21:67, 35:94] = 255
        image = square_image(grey, side)
        mask = square_mask(grey, side, 0)
        assert ((image >= 128) == (mask == 1)).all()


def test_classes_share_one_plane() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 10:31] = 1
    labels[:, 31:50] = 2
    plane = square_mask(labels, 32, 3)
    assert set(np.unique(plane)) == {0, 1, 2}
    # Column 15 is half class 1, half class 2: the lower class keeps it.
    assert plane[5, 15] == 1
    assert plane[5, 16] == 2
    assert plane[5, 4] == 0
