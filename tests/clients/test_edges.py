"""Edges: where the grey changes, never where the padding begins."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import edges
from clients.edges import DARKEST, SPREAD, find_edges, kept_edges

SIDE = 48


def disc(height: int = SIDE, width: int = SIDE, grey: int = 40) -> np.ndarray:
    """A bright picture with a dark disc, padded right and below."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:height, :width] = 160
    y, x = np.mgrid[:SIDE, :SIDE]
    image[(y - 16) ** 2 + (x - 16) ** 2 < 64] = grey
    return image


def test_the_edge_of_a_disc_is_a_ring_and_nothing_else() -> None:
    found = find_edges(disc()[None]).of(slice(None))[0]
    y, x = np.nonzero(found)
    radius = np.hypot(y - 16, x - 16)
    assert len(radius) > 30
    assert abs(radius - 8).max() < 2


@settings(max_examples=20, deadline=None)
@given(st.integers(8, SIDE), st.integers(8, SIDE), st.integers(30, 255))
def test_padding_makes_no_edge(height: int, width: int, grey: int) -> None:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:height, :width] = grey
    found = find_edges(image[None])
    assert found.of(slice(None)).sum() == 0
    assert found.sizes[0].tolist() == [height, width]
    assert found.pictures(slice(None))[0].sum() == height * width
    hints = found.hints(slice(None))[0]
    assert (hints[:height, :width] == 0).all()
    assert hints.sum() == -(SIDE * SIDE - height * width)


def test_the_padding_of_a_picture_with_edges_is_marked_and_they_are_kept() -> None:
    found = find_edges(disc(32, 40)[None])
    hints = found.hints(np.array([0]))[0]
    assert set(np.unique(hints)) == {-1, 0, 1}
    np.testing.assert_array_equal(hints == 1, found.of(slice(None))[0] == 1)
    assert (hints[32:] == -1).all()
    assert (hints[:, 40:] == -1).all()


def test_thresholds_follow_the_median_of_the_picture_and_a_black_image_has_none() -> None:
    images = np.stack([disc(30, 30), np.zeros((SIDE, SIDE), np.uint8)])
    images_dark = (images // 40).astype(np.uint8)
    found = find_edges(np.concatenate([images, images_dark]))
    np.testing.assert_allclose(found.thresholds[0], (160 * (1 - SPREAD), 160 * (1 + SPREAD)))
    assert (found.thresholds[1] == 0).all()
    np.testing.assert_allclose(
        found.thresholds[2], (DARKEST * (1 - SPREAD), DARKEST * (1 + SPREAD)), rtol=1e-6
    )
    assert not found.of(np.array([1])).any()


def test_edges_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.stack([disc(), disc(40, 40)])
    first = kept_edges(tmp_path, images)
    monkeypatch.setattr(edges, "find_edges", None)
    again = kept_edges(tmp_path, images)
    for name in ("packed", "thresholds", "sizes", "side"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    with pytest.raises(TypeError):  # other pixels: found anew
        kept_edges(tmp_path, images + np.uint8(1))
