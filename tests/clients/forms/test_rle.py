"""Run lengths against slow, plain readings of their formats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.forms.rle import (
    brush_runs,
    coco_counts,
    from_brush_runs,
    from_coco_counts,
    unpacked,
)

MASKS = arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 15)), elements=st.integers(0, 1)
)


def packed(counts: list[int]) -> str:
    """COCO's string, as maskApi.c's rleToString writes it."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = value != -1 if digit & 16 else value != 0
            text += chr((digit | 32 if more else digit) + 48)
    return text


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_coco_counts_go_down_the_columns(mask: np.ndarray) -> None:
    counts = coco_counts(mask)
    flat: list[int] = []
    for place, count in enumerate(counts):
        flat += [place % 2] * count
    assert flat == [int(mask[y, x]) for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    assert np.array_equal(from_coco_counts(counts, *mask.shape), mask)
    assert unpacked(packed(counts)) == counts


def test_a_packed_string_of_coco() -> None:
    """A 3 x 3 image whose middle column is foreground."""
    assert unpacked("333") == [3, 3, 3]
    assert unpacked(packed([0, 100_000, 5, 2, 90_000])) == [0, 100_000, 5, 2, 90_000]


@pytest.mark.parametrize("text", ["3P", "3~", "ż"])
def test_no_packed_string(text: str) -> None:
    with pytest.raises(ValueError, match="no packed COCO counts"):
        unpacked(text)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_a_brush_and_back(mask: np.ndarray) -> None:
    assert np.array_equal(from_brush_runs(brush_runs(mask), *mask.shape), mask)


def test_a_long_run_is_parted() -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[100:200, 50:] = 1
    assert np.array_equal(from_brush_runs(brush_runs(mask), 300, 400), mask)


def test_a_brush_of_single_values() -> None:
    """Two pixels, all eight bytes one by one: the other of the format's two kinds of runs."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{v:08b}" for v in (9, 9, 9, 0, 9, 9, 9, 255))
    bits += "0" * (-len(bits) % 8)
    brush = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert from_brush_runs(brush, 1, 2).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("brush", "words"),
    [
        ([1, 2], "cut short"),
        ([0, 0, 0, 16, 57, 35, 0], "cut short"),
        (brush_runs(np.ones((2, 2), np.uint8)), "a brush of 4 pixels for 3 x 3"),
        ([256], "no list of bytes"),
        (["a"], "no list of bytes"),
    ],
)
def test_no_brush(brush: list[int], words: str) -> None:
    side = 3 if "3 x 3" in words else 2
    with pytest.raises(ValueError, match=words):
        from_brush_runs(brush, side, side)


def test_counts_of_another_size() -> None:
    with pytest.raises(ValueError, match="of 5 pixels for 2 x 3"):
        from_coco_counts([2, 3], 3, 2)
    with pytest.raises(ValueError, match="run lengths"):
        from_coco_counts([8, -2], 3, 2)
