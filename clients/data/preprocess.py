"""Makes every image the same square: grey, padded, resized by one resizer for every stage.

Legend: H, W = the file's height and width, S = the study's side, in pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = "1"
"""Part of the cache's key: raise it when any pixel made here may change."""

TWELVE_BIT = 4095


def to_grey8(grey_HW: NDArray[Any]) -> NDArray[np.float32]:
    """Scales to 0..255 without rounding.

    uint8 stays, floats in [0, 1] are multiplied by 255. 16 bits are a fixed scale, so that
    one device's images keep their brightness among each other: the full 65535, or 4095 where
    nothing in the file lies above it, since many scanners store 12 bits in 16.
    """
    if grey_HW.dtype == np.uint8:
        return grey_HW.astype(np.float32)
    if grey_HW.dtype == np.uint16:
        full = TWELVE_BIT if grey_HW.max() <= TWELVE_BIT else 65535
        return grey_HW.astype(np.float32) * np.float32(255 / full)
    return grey_HW.astype(np.float32) * np.float32(255)


def resize(plane_HW: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Pads with zeros right and bottom to a square, then resizes: the only resizer there is.

    It is Pillow's BILINEAR on 32-bit floats: a triangle filter as wide as the reduction, so it
    antialiases, and plain bilinear when enlarging. P1's code uses two resizers, by which the
    same file differs by up to .10 between its stages.

    Args:
        plane_HW: Any values.
        side: S.

    Returns:
        (S, S) float32.
    """
    height, width = plane_HW.shape
    longer = max(height, width)
    square = np.zeros((longer, longer), np.float32)
    square[:height, :width] = plane_HW
    if longer == side:
        return square
    picture = Image.fromarray(square).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32)


def square_image(grey_HW: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """An image as the cache keeps it: (S, S) uint8."""
    values = np.rint(resize(to_grey8(grey_HW), side))
    return np.clip(values, 0, 255).astype(np.uint8)


def binary_mask(values_HW: NDArray[Any]) -> NDArray[np.uint8]:
    """Foreground of a mask file: (H, W) in {0, 1}.

    A file with values above 127 is a painted mask (0/255, with soft or JPEG-blurred edges):
    foreground is what lies above half of its scale. Else it holds numbers (0/1, or classes):
    everything above 0 is foreground.
    """
    highest = values_HW.max()
    threshold = 0 if highest <= 127 else 127 if highest <= 255 else highest / 2
    return (values_HW > threshold).astype(np.uint8)


def square_mask(values_HW: NDArray[Any], side: int, classes: int) -> NDArray[np.uint8]:
    """A mask as the cache keeps it, aligned with its image to the sub-pixel.

    Every class is resized as an image is, and a pixel belongs to the class that covers half of
    it or more. Two classes of a label mask never overlap, so one plane of numbers holds all.

    Args:
        values_HW: The mask file's values.
        side: S.
        classes: 0 for a binary mask; else value k is class k, 1 <= k <= classes.

    Returns:
        (S, S) uint8: 0 background, k class k (1 for a binary mask).
    """
    labels = values_HW if classes else binary_mask(values_HW)
    plane = np.zeros((side, side), np.uint8)
    for k in range(1, max(classes, 1) + 1):
        member = labels == k
        if member.any():
            covered = resize(member.astype(np.float32), side)
            # At an exact half between two classes the lower one keeps the pixel.
            plane[(covered >= 0.5) & (plane == 0)] = k
    return plane
