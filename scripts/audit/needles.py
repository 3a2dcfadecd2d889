"""What a canary could look like on the wire, cut into needles that a stream can be compared with.

Two kinds. Bytes: an encoding of pixels or words, of which eight bytes in a row are looked up and
sixteen or more compared. Orders: of 64 numbers in a row, which of each pair is the larger. That
is the same for every scale, offset and type of number, and is confirmed by the correlation of the
64 numbers with the canary's.
"""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.audit.canary import Canaries

WORD = 8
"""Bytes of a needle."""
WINDOW = 64
"""Numbers of an order: a patch of 8 x 8, or as many in a row."""
STEP = 64
"""Bytes of an encoding from one needle to the next: the longest piece that could be missed is
as long as this and what is compared."""

Bytes = NDArray[np.uint8]

BETWEEN = {"JSON": ", ", "commas": ",", "blanks": " ", "lines": "\n"}
ENOUGH = {f"decimal text, {how}": 64 for how in BETWEEN} | {"varints": 32, "signed varints": 32}
"""Where a byte says less than its eight bits, more of them must be equal."""
HEAD = 64
"""Bytes at both ends of a file that its format fills."""
BEGINS = ("", ", one byte in", ", two bytes in")
LEAST_BITS = 4
"""A code with fewer bits set is that of numbers which hardly differ: no sign of anything."""


@dataclass(frozen=True)
class Pattern:
    """One encoding of one canary.

    Attributes:
        what: The canary.
        how: The encoding.
        data: Its bytes.
        enough: Bytes of it that must be there in a row; 0: all of it.
    """

    what: str
    how: str
    data: bytes
    enough: int = 16


@dataclass
class Needles:
    """Everything to look for.

    Attributes:
        patterns: The encodings.
        words: (n,) uint64, sorted: the first eight bytes of each needle.
        owners: (n, 2) int64: pattern and place in it, of each needle.
        orders: (m,) uint32, sorted: codes of `order_codes`.
        windows: (k, 64) float32: the numbers of which the codes are, standardised.
        window_of: (m,) int64: window of each code.
        sources: (k,): whose window it is, and in which layout.
    """

    patterns: list[Pattern]
    words: NDArray[np.uint64]
    owners: NDArray[np.int64]
    orders: NDArray[np.uint32]
    windows: NDArray[np.float32]
    window_of: NDArray[np.int64]
    sources: list[tuple[str, str]] = field(default_factory=list)


def needles_of(canaries: Canaries) -> Needles:
    """All needles of a set of canaries."""
    patterns = list(_patterns(canaries))
    words, owners = [], []
    for number, pattern in enumerate(patterns):
        data = pattern.data
        last = len(data) - WORD + 1 if pattern.enough else 1
        for place in range(0, last, STEP):
            word = data[place : place + WORD]
            # What is nearly constant occurs anywhere.
            if not pattern.enough or len(set(word)) > WORD // 2 - 1:
                words.append(int.from_bytes(word, "little"))
                owners.append((number, place))
    order = np.argsort(np.array(words, np.uint64), kind="stable")
    windows, sources = _windows(canaries)
    codes, window_of = _codes(windows)
    ranked = np.argsort(codes, kind="stable")
    return Needles(
        patterns,
        np.array(words, np.uint64)[order],
        np.array(owners, np.int64).reshape(-1, 2)[order],
        codes[ranked],
        _standardised(windows),
        window_of[ranked],
        sources,
    )


# Bytes.


def _patterns(canaries: Canaries) -> Iterator[Pattern]:
    for what, picture in canaries.pictures:
        for how, data in encodings(picture).items():
            yield Pattern(what, how, data, ENOUGH.get(how, 16))
    for what, mask in canaries.masks:
        flat = mask.reshape(-1)
        for order in ("big", "little"):
            yield Pattern(what, f"1 bit, {order}", np.packbits(flat, bitorder=order).tobytes())
    for what, data in canaries.files:
        # Heads and tails of all PNG files are alike.
        yield Pattern(what, "its file's bytes", data[HEAD:-HEAD])
    seen = set()
    for what, text in canaries.texts:
        for how, data in spellings(text).items():
            if len(data) >= WORD and (data, how) not in seen:
                seen.add((data, how))
                yield Pattern(what, how, data, enough=0)


def encodings(picture: Bytes) -> dict[str, bytes]:
    """Pixels as bytes in forms that no order of numbers finds; (H, W) uint8."""
    rows = picture.reshape(-1)
    high, low = rows >> 4, rows & 15
    found = {
        "bytes": rows.tobytes(),
        "bytes by columns": picture.T.tobytes(),
        "bytes inverted": (255 - rows).tobytes(),
        "4 bits": ((high[::2] << 4) | high[1::2]).tobytes(),
        "4 bits, low half first": ((high[1::2] << 4) | high[::2]).tobytes(),
        "low 4 bits": ((low[::2] << 4) | low[1::2]).tobytes(),
        "2 bits": _packed(rows >> 6, 2),
        "1 bit": np.packbits(rows >> 7).tobytes(),
        "1 bit, little": np.packbits(rows >> 7, bitorder="little").tobytes(),
        "differences (PNG sub)": np.diff(picture, axis=1).tobytes(),
        "differences (PNG up)": np.diff(picture, axis=0).tobytes(),
        "text (Latin-1 in UTF-8)": rows.tobytes().decode("latin-1").encode(),
        "varints": b"".join(_varint(int(value)) for value in rows),
        "signed varints": b"".join(_varint(2 * int(value)) for value in rows),
    }
    for how, between in BETWEEN.items():
        found[f"decimal text, {how}"] = between.join(map(str, rows.tolist())).encode()
    return found


def _packed(values: NDArray[Any], bits: int) -> bytes:
    """Values of so few bits, the first in the highest place."""
    width = 8 // bits
    grouped = values[: len(values) // width * width].reshape(-1, width).astype(np.uint16)
    shifts = np.arange(8 - bits, -1, -bits)
    packed: bytes = (grouped << shifts).sum(1).astype(np.uint8).tobytes()
    return packed


def _varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def spellings(text: str) -> dict[str, bytes]:
    """A word in the forms in which it is looked for."""
    raw = text.encode()
    found = {
        "text": raw,
        "text, small letters": text.lower().encode(),
        "text, capitals": text.upper().encode(),
        "text backwards": text[::-1].encode(),
        "UTF-16": text.encode("utf-16-le"),
        "UTF-16, big-endian": text.encode("utf-16-be"),
        "UTF-32": text.encode("utf-32-le"),
        "hexadecimal": raw.hex().encode(),
        "hexadecimal, capitals": raw.hex().upper().encode(),
        "numbers, JSON": ", ".join(str(letter) for letter in raw).encode(),
    }
    for shift in range(3):
        # Base64 takes three bytes at a time: the word may begin at any of them.
        whole = base64.b64encode(bytes(shift) + raw)
        first, last = (0, 2, 3)[shift], len(whole) // 4 * 4 - 4
        found[f"base64{BEGINS[shift]}"] = whole[first:last]
    for name in ("sha256", "sha1", "md5"):
        for how, letters in (("", raw), (" of small letters", text.lower().encode())):
            digest = hashlib.new(name, letters, usedforsecurity=False)
            found[f"{name}{how}"] = digest.digest()
            found[f"{name}{how}, hexadecimal"] = digest.hexdigest().encode()
    return found


# Orders.


def _windows(canaries: Canaries) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
    """(k, 64) windows of every picture and mask, in every layout."""
    found: list[NDArray[np.float32]] = []
    sources: list[tuple[str, str]] = []
    for what, plane in (*canaries.pictures, *canaries.masks):
        for how, flat in layouts(plane).items():
            cut = flat[: len(flat) // WINDOW * WINDOW].reshape(-1, WINDOW).astype(np.float32)
            # Where nothing varies there is nothing to recognise.
            cut = cut[cut.std(axis=1) > 0]
            found.append(cut)
            sources += [(what, how)] * len(cut)
    return np.concatenate(found) if found else np.zeros((0, WINDOW), np.float32), sources


def layouts(plane: Bytes) -> dict[str, Bytes]:
    """(H, W) as one row of numbers: rows, columns, patches of 8 x 8."""
    high, wide = (side // 8 * 8 for side in plane.shape)
    patches = plane[:high, :wide].reshape(high // 8, 8, wide // 8, 8).swapaxes(1, 2)
    return {
        "rows": plane.reshape(-1),
        "columns": plane.T.reshape(-1),
        "8 x 8 patches": patches.reshape(-1),
    }


def _codes(windows: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Codes of the windows: as they are, in 4 bits, and both with the sign turned."""
    coarse = np.floor(windows / 16)
    variants = [order_codes(each) for each in (windows, coarse, -windows, -coarse)]
    codes = np.concatenate(variants)
    places = np.tile(np.arange(len(windows), dtype=np.int64), len(variants))
    kept = np.unpackbits(codes.view(np.uint8).reshape(-1, 4), axis=1).sum(1) >= LEAST_BITS
    return codes[kept], places[kept]


def order_codes(windows: NDArray[np.float32]) -> NDArray[np.uint32]:
    """(k, 64) numbers to (k,) codes: bit i says whether number 2i is larger than number 2i + 1."""
    larger = windows[:, ::2] > windows[:, 1::2]
    return np.packbits(larger, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)


def _standardised(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1 each, so that a product with another such row is the correlation."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths > 0, lengths, 1), np.float32)
