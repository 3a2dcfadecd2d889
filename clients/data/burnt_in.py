"""Finds what looks like letters in an image: names are burned into frames more often than known.

Letters are strokes of one grey that stand in a row: alike in height, close together, on a common
line. Speckle has bright grains too, but no row of them. This warns; it does not read, and it is not
proof of the contrary.

Legend: H, W = the image's height and width, in pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FEWEST = 4
"""Letters in a row that make a text."""

HEIGHTS = (5, 40)
CONTRAST = 50.0
"""Grey levels that a letter stands above (or below) what surrounds it."""

FLATNESS = 0.35
"""Share of a letter's pixels that must lie within `SAME` of its commonest grey."""

SAME = 10
STEP, WINDOW = 3, 7


@dataclass(frozen=True)
class Letters:
    """A row of letters.

    Attributes:
        left: First column.
        top: First row.
        right: Column after the last.
        bottom: Row after the last.
        count: Letters.
    """

    left: int
    top: int
    right: int
    bottom: int
    count: int


def find_letters(grey_HW: NDArray[Any]) -> list[Letters]:
    """Rows of letter-like shapes, brighter or darker than their surroundings.

    Args:
        grey_HW: 0..255, at the size the scanner gave it: reduced letters are none.
    """
    image = np.asarray(grey_HW, dtype=np.float32)
    if min(image.shape) < 2 * HEIGHTS[0]:
        return []
    around = _surroundings(image)
    found = []
    for sign in (1, -1):
        strokes = sign * (image - around) > CONTRAST
        found += _rows(_candidates(image, strokes))
    return found


def _surroundings(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A running median, wider than a stroke, taken on every third pixel for speed."""
    coarse = ndimage.median_filter(image[::STEP, ::STEP], size=WINDOW, mode="nearest")
    height, width = image.shape
    wide: NDArray[np.float32] = coarse.repeat(STEP, axis=0).repeat(STEP, axis=1)
    return wide[:height, :width]


def _candidates(
    image: NDArray[np.float32], strokes: NDArray[np.bool_]
) -> list[tuple[slice, slice]]:
    """Boxes of the connected strokes that are as large and as even as a letter."""
    labels, _ = ndimage.label(strokes, structure=np.ones((3, 3)))
    boxes = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        height, width = (edge.stop - edge.start for edge in box)
        if not HEIGHTS[0] <= height <= HEIGHTS[1] or width > 2.5 * height:
            continue
        values = image[box][labels[box] == number]
        share = len(values) / (height * width)
        counts = np.bincount(values.astype(np.int64), minlength=256)
        commonest = int(counts.argmax())
        even = np.abs(values - commonest) <= SAME
        if 0.15 <= share <= 0.9 and even.mean() >= FLATNESS:
            boxes.append(box)
    return boxes


def _rows(boxes: list[tuple[slice, slice]]) -> list[Letters]:
    """Chains of boxes, left to right, alike in height and on one line."""
    left_to_right = sorted(boxes, key=lambda box: box[1].start)
    free = set(range(len(left_to_right)))
    found = []
    for first in range(len(left_to_right)):
        if first not in free:
            continue
        chain = [first]
        for other in range(first + 1, len(left_to_right)):
            if other in free and _follows(left_to_right[chain[-1]], left_to_right[other]):
                chain.append(other)
        if len(chain) >= FEWEST:
            free -= set(chain)
            found.append(_hull([left_to_right[place] for place in chain]))
    return found


def _follows(before: tuple[slice, slice], after: tuple[slice, slice]) -> bool:
    height_a, height_b = (box[0].stop - box[0].start for box in (before, after))
    taller = max(height_a, height_b)
    gap = after[1].start - before[1].stop
    # Letters of one line stand on it: small ones start lower, but end where the others end.
    return bool(
        min(height_a, height_b) >= 0.6 * taller
        and abs(before[0].stop - after[0].stop) <= max(1, 0.25 * taller)
        and -1 <= gap <= 1.2 * taller
    )


def _hull(boxes: list[tuple[slice, slice]]) -> Letters:
    return Letters(
        left=min(box[1].start for box in boxes),
        top=min(box[0].start for box in boxes),
        right=max(box[1].stop for box in boxes),
        bottom=max(box[0].stop for box in boxes),
        count=len(boxes),
    )
