"""Run lengths: COCO's, plain and packed into a string, and those of Label Studio's brush."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
SIZES = (3, 4, 8, 16)
"""Bits of the four kinds of lengths in a brush's runs; a run of more than 2^16 is parted."""
LONGEST = 2**16
WORD = 8


def runs_of(values: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Lengths of runs of equal values, and the values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    return lengths.astype(np.int64), values[starts]


def coco_counts(mask_HW: Mask) -> list[int]:
    """COCO's plain counts: down the columns, background first."""
    lengths, values = runs_of((mask_HW > 0).astype(np.uint8).ravel(order="F"))
    counts = [int(length) for length in lengths]
    return counts if values[0] == 0 else [0, *counts]


def from_coco_counts(counts: Sequence[int], height: int, width: int) -> Mask:
    """The mask of plain counts.

    Raises:
        ValueError: If they do not fill the image.
    """
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"run lengths of {sum(counts)} pixels for {width} x {height}")
    values = np.arange(len(counts), dtype=np.int64) % 2
    flat = np.repeat(values, counts).astype(np.uint8)
    return flat.reshape(height, width, order="F")


def unpacked(text: str) -> list[int]:
    """COCO's packed counts: base 32, and from the third on the difference to the last but one.

    Raises:
        ValueError: If the text is cut short or holds another character.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place >= len(text) or not 48 <= ord(text[place]) < 112:
                raise ValueError("run lengths that are no packed COCO counts")
            digit = ord(text[place]) - 48
            value |= (digit & 31) << shift
            more = bool(digit & 32)
            place, shift = place + 1, shift + 5
            if not more and digit & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def brush_runs(mask_HW: Mask) -> list[int]:
    """Label Studio's brush: packed runs of an RGBA picture whose four channels are alike."""
    lengths, values = runs_of(np.where(mask_HW.ravel() > 0, 255, 0).astype(np.uint8))
    bits = [f"{4 * mask_HW.size:032b}", f"{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for length, value in zip(lengths * 4, values, strict=True):
        left = int(length)
        while left:
            part = min(left, LONGEST)
            kind = next(i for i, size in enumerate(SIZES) if part <= 1 << size)
            bits.append(f"1{kind:02b}{part - 1:0{SIZES[kind]}b}{int(value):08b}")
            left -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def from_brush_runs(packed: Sequence[int], height: int, width: int) -> Mask:
    """The mask of a brush.

    Raises:
        ValueError: If the bytes are no such runs, or are those of an image of another size.
    """
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    except (ValueError, TypeError):
        raise ValueError("a brush that is no list of bytes") from None
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("a brush that is cut short")
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    if total != 4 * height * width:
        raise ValueError(f"a brush of {total // 4} pixels for {width} x {height}")
    sizes = [read(4) + 1 for _ in range(4)]
    flat = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        repeated = read(1)
        end = min(at + 1 + read(sizes[read(2)]), total)
        if repeated:
            flat[at:end] = min(read(word), 255)
        else:
            flat[at:end] = [min(read(word), 255) for _ in range(end - at)]
        at = end
    alpha: Mask = (flat.reshape(height, width, 4)[..., 3] > 127).astype(np.uint8)
    return alpha
