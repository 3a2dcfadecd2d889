"""Masks as files for other tools, and back: PNG, `.seg.nrrd`, polygons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import draw

from clients.data.preprocess import binary_mask
from clients.data.readers import read_mask, read_pillow
from clients.data.unreadable import UnreadableError

Mask = NDArray[np.uint8]
NRRD = ".nrrd"


def read_outline(path: Path, classes: Sequence[str], size: tuple[int, int] | None) -> Mask:
    """A mask's file: (H, W), 0 background, k class k.

    Args:
        path: PNG, TIFF or BMP as a manifest's masks are, or `.seg.nrrd`.
        classes: Names of the classes; empty for a binary mask.
        size: Height and width of its image, where they are known; a `.seg.nrrd` that a tool has cut
            to what is segmented is then put back in its place.

    Raises:
        UnreadableError: If it is not there, damaged, or holds what is no class.
    """
    if not path.is_file():
        raise UnreadableError("is not there")
    if path.suffix.lower() == NRRD:
        return read_seg_nrrd(path, classes, size)
    values = read_mask(read_pillow, path, None, classes=len(classes))
    return (values if classes else binary_mask(values)).astype(np.uint8)


def read_seg_nrrd(path: Path, classes: Sequence[str], size: tuple[int, int] | None) -> Mask:
    """A segmentation as 3D Slicer and ITK-SNAP write it, of one frame.

    Segments are known by their names; in a binary study whatever is segmented is the foreground.

    Raises:
        UnreadableError: If it is none, has several frames, or a segment of no class.
    """
    import nrrd

    try:
        values, header = nrrd.read(str(path))
    except Exception as error:  # pynrrd fails with whatever the bytes provoke
        raise UnreadableError(f"is no NRRD that can be read ({type(error).__name__})") from None
    if values.ndim == 3:
        values = values[None]  # a single layer
    if values.ndim != 4 or values.shape[3] != 1:
        raise UnreadableError(f"has the shape {values.shape}; one frame is wanted")
    plane_HW = np.zeros((values.shape[2], values.shape[1]), np.uint8)
    for number in range(_segments(header)):
        name = str(header.get(f"Segment{number}_Name", ""))
        if classes and name not in classes:
            raise UnreadableError(f"has a segment {name!r}, which is none of {', '.join(classes)}")
        layer = int(header.get(f"Segment{number}_Layer", 0))
        value = int(header.get(f"Segment{number}_LabelValue", number + 1))
        if not 0 <= layer < len(values):
            raise UnreadableError(f"has no layer {layer}")
        member_WH = values[layer, :, :, 0] == value
        plane_HW[member_WH.T] = classes.index(name) + 1 if classes else 1
    return plane_HW if size is None else _whole(plane_HW, header, size)


def _segments(header: dict[str, Any]) -> int:
    number = 0
    while f"Segment{number}_Name" in header or f"Segment{number}_ID" in header:
        number += 1
    if not number:
        raise UnreadableError("names no segment")
    return number


def _whole(plane_HW: Mask, header: dict[str, Any], size: tuple[int, int]) -> Mask:
    """Put back what a tool cut to the segments' extent."""
    if plane_HW.shape == size:
        return plane_HW
    offset = str(header.get("Segmentation_ReferenceImageExtentOffset", "")).split()
    try:
        left, top = (int(part) for part in offset[:2])
    except ValueError:
        return plane_HW  # of another size, which is said where it is held against its image
    rows, columns = plane_HW.shape
    if left < 0 or top < 0 or top + rows > size[0] or left + columns > size[1]:
        raise UnreadableError("lies outside its image")
    whole = np.zeros(size, np.uint8)
    whole[top : top + rows, left : left + columns] = plane_HW
    return whole


def polygon_mask(points: Sequence[tuple[float, float]], height: int, width: int) -> Mask:
    """The pixels whose centres lie in a polygon.

    Args:
        points: x, y in pixels; the first pixel reaches from 0 to 1.
        height: Of the image.
        width: Of the image.
    """
    corners = np.array([(y - 0.5, x - 0.5) for x, y in points], dtype=float)
    inside: Mask = np.asarray(
        draw.polygon2mask((height, width), corners),  # type: ignore[no-untyped-call]
        np.uint8,
    )
    return inside
