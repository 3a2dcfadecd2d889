"""Searches bytes for canaries: pixels in any number format, names in any spelling.

It looks inside whatever can be unpacked, too. Memory does not grow with the bytes.

What a hit is worth. Bytes: 16 random bytes in a row are met by chance once in 2^128 places. Orders:
32 independent fair bits must agree, and then 64 numbers correlate by .9 or more with random pixels
(chance below 1e-20 a comparison). Both hold for any honest stream that was not made from the
canaries, since the canaries are what is random. Not found is what is not copied in a form that is
looked for; what a network has learnt is none of them.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.audit.needles import WINDOW, WORD, Needles, order_codes
from scripts.audit.unpack import Unpacked, unpack

BLOCK = 2**22
OVERLAP = 2 * WINDOW * 8 + 64
"""More than 64 numbers of 8 bytes at any place take."""
ALIKE = 0.9
"""Correlation from which on 64 numbers are the canary's."""
TABLE_BITS = 22
DEPTH = 3
MOST_HITS = 200
"""Hits that are told singly; all are counted."""

KNUTH = np.uint64(0x9E3779B97F4A7C15)

# Name, dtype. A byte at a stride also finds small whole numbers, and the low bytes of floats.
FLOATS = {
    "float32": "<f4", "float32, big-endian": ">f4", "float16": "<f2", "float16, big-endian": ">f2",
    "float64": "<f8", "float64, big-endian": ">f8",
}  # fmt: skip
STRIDES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Hit:
    """Something that must not be there.

    Attributes:
        what: The canary.
        how: The form in which it was found.
        place: Offset in the stream (or in what was unpacked from it).
        within: What it was packed in; empty where in nothing.
    """

    what: str
    how: str
    place: int
    within: str = ""


@dataclass
class Found:
    """What a search brought.

    Attributes:
        bytes: Searched, what was unpacked not counted.
        unpacked_bytes: Searched beside.
        unpacked: Streams that could be unpacked, by kind.
        hits: The first of them.
        count: All of them.
        skipped: What was too large or too deep to be looked into, in words.
    """

    bytes: int = 0
    unpacked_bytes: int = 0
    unpacked: dict[str, int] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    count: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, hit: Hit) -> None:
        """Take in a hit; equal ones in a row are counted only."""
        self.count += 1
        last = self.hits[-1] if self.hits else None
        same = last and (last.what, last.how, last.within) == (hit.what, hit.how, hit.within)
        if not same and len(self.hits) < MOST_HITS:
            self.hits.append(hit)

    def merge(self, other: "Found") -> None:
        """Take in another search."""
        self.bytes += other.bytes
        self.unpacked_bytes += other.unpacked_bytes
        for kind, number in other.unpacked.items():
            self.unpacked[kind] = self.unpacked.get(kind, 0) + number
        self.hits = (self.hits + other.hits)[:MOST_HITS]
        self.count += other.count
        self.skipped += other.skipped


class Searcher:
    """Searches streams for a set of needles.

    Args:
        needles: What to look for.
    """

    def __init__(self, needles: Needles) -> None:
        self.needles = needles
        self.word_table = np.zeros(1 << TABLE_BITS, bool)
        self.word_table[_slots(needles.words)] = True
        self.order_table = np.zeros(1 << TABLE_BITS, bool)
        self.order_table[needles.orders >> np.uint32(32 - TABLE_BITS)] = True
        # A second look at what the first lets through, which is far cheaper than the search.
        self.order_again = np.zeros(1 << TABLE_BITS, bool)
        self.order_again[_slots(needles.orders.astype(np.uint64))] = True

    def file(self, path: Path, *, until: int = 0) -> Found:
        """Search a file.

        Args:
            path: Which.
            until: Hits after which the search ends; 0: it goes through all.
        """
        if not path.stat().st_size:
            return Found()
        with path.open("rb") as file:
            # Pages of the file, not a copy: they come and go as the search goes along.
            return self.data(
                memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), until
            )

    def data(
        self, data: "bytes | memoryview", until: int = 0, within: str = "", depth: int = 0
    ) -> Found:
        """Search bytes, and what can be unpacked from them."""
        found = Found(bytes=len(data) if not depth else 0)

        def enough() -> bool:
            return 0 < until <= found.count

        for start in range(0, len(data), BLOCK):
            block = np.frombuffer(data[start : start + BLOCK + OVERLAP], np.uint8)
            for hit in self._block(block, start, within):
                found.add(hit)
                if enough():
                    return found
        for part in unpack(data):
            self._inside(part, until, within, depth, found)
            if enough():
                break
        return found

    def _inside(self, part: Unpacked, until: int, within: str, depth: int, found: Found) -> None:
        if part.skipped:
            found.skipped.append(part.skipped)
            return
        found.unpacked[part.kind] = found.unpacked.get(part.kind, 0) + part.streams
        found.unpacked_bytes += len(part.data)
        if depth + 1 >= DEPTH:
            found.skipped.append(f"{part.kind} in {within}: packed {DEPTH} times or more")
            return
        path = f"{within}, {part.kind}" if within else part.kind
        found.merge(self.data(part.data, until, path, depth + 1))

    def _block(self, block: NDArray[np.uint8], start: int, within: str) -> Iterator[Hit]:
        for what, how, place in self._bytes(block):
            if place < BLOCK:  # what begins behind it is the next block's
                yield Hit(what, how, start + place, within)
        for name, width, offset, values in views(block):
            for number, number_place in self._orders(values):
                place = offset + number_place * width
                if place < BLOCK:
                    what, layout = self.needles.sources[number]
                    yield Hit(what, f"{name}, {layout}", start + place, within)

    # Bytes.

    def _bytes(self, block: NDArray[np.uint8]) -> Iterator[tuple[str, str, int]]:
        needles = self.needles
        for offset in range(WORD):
            words = _cut(block, offset, WORD).view("<u8")
            maybe = np.flatnonzero(self.word_table[_slots(words)])
            if not len(maybe):
                continue
            first = np.searchsorted(needles.words, words[maybe], "left")
            last = np.searchsorted(needles.words, words[maybe], "right")
            for place, low, high in zip(maybe[first < last], first[first < last],
                                        last[first < last], strict=True):  # fmt: skip
                for number in range(low, high):
                    at = int(place) * WORD + offset
                    owner, inside = needles.owners[number]
                    pattern = needles.patterns[owner]
                    if _confirmed(block, at, pattern.data, int(inside), pattern.enough):
                        yield pattern.what, pattern.how, at
                        if pattern.enough:
                            break

    # Orders.

    def _orders(self, values: NDArray[Any]) -> Iterator[tuple[int, int]]:
        """(window, place) of every run of 64 numbers that is a canary's."""
        needles = self.needles
        if len(values) < WINDOW or not len(needles.orders):
            return
        for parity in (0, 1):
            pairs = values[parity : parity + (len(values) - parity) // 2 * 2].reshape(-1, 2)
            larger = pairs[:, 0] > pairs[:, 1]
            for shift in range(8):
                packed = np.packbits(larger[shift:], bitorder="little")
                for byte in range(4):
                    codes = _cut(packed, byte, 4).view("<u4")
                    maybe = np.flatnonzero(self.order_table[codes >> np.uint32(32 - TABLE_BITS)])
                    maybe = maybe[self.order_again[_slots(codes[maybe].astype(np.uint64))]]
                    if len(maybe):
                        bits = maybe * 32 + byte * 8 + shift
                        yield from self._alike(values, codes[maybe], 2 * bits + parity)

    def _alike(
        self, values: NDArray[Any], codes: NDArray[np.uint32], places: NDArray[np.int64]
    ) -> Iterator[tuple[int, int]]:
        needles = self.needles
        low = np.searchsorted(needles.orders, codes, "left")
        high = np.searchsorted(needles.orders, codes, "right")
        # Bits behind the end of the numbers were filled up.
        kept = (low < high) & (places + WINDOW <= len(values))
        for place, first, last in zip(places[kept], low[kept], high[kept], strict=True):
            run = np.asarray(values[place : place + WINDOW], np.float64)
            if not np.isfinite(run).all():
                continue
            run = run - run.mean()
            length = float(np.linalg.norm(run))
            if not 0 < length < np.inf:
                continue
            windows = needles.windows[needles.window_of[first:last]]
            alike = np.abs(windows @ (run / length))
            best = int(alike.argmax())
            if alike[best] >= ALIKE:
                yield int(needles.window_of[first + best]), int(place)


def views(block: NDArray[np.uint8]) -> Iterator[tuple[str, int, int, NDArray[Any]]]:
    """A block's bytes as numbers of every kind at every alignment: name, bytes, offset, values."""
    with np.errstate(all="ignore"):
        for stride in STRIDES:
            name = "bytes" if stride == 1 else f"one byte in {stride}"
            for offset in range(stride):
                yield name, stride, offset, block[offset::stride]
        for name, kind in FLOATS.items():
            width = np.dtype(kind).itemsize
            for offset in range(width):
                yield name, width, offset, _cut(block, offset, width).view(kind)
        for offset in range(2):
            halves = _cut(block, offset, 2).view("<u2").astype(np.uint32)
            yield "bfloat16", 2, offset, (halves << np.uint32(16)).view(np.float32)


def _cut(block: NDArray[np.uint8], offset: int, width: int) -> NDArray[np.uint8]:
    """From an offset on, as many bytes as whole values of that width take."""
    return block[offset : offset + max(0, len(block) - offset) // width * width]


def _slots(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (words * KNUTH) >> np.uint64(64 - TABLE_BITS)


def _confirmed(block: NDArray[np.uint8], at: int, pattern: bytes, inside: int, enough: int) -> bool:
    """Whether enough bytes around a needle are the pattern's too."""
    if not enough:
        return block[at : at + len(pattern)].tobytes() == pattern
    right = _equal(block[at : at + enough].tobytes(), pattern[inside : inside + enough])
    reach = min(at, inside, enough)
    before = block[at - reach : at].tobytes()[::-1]
    left = _equal(before, pattern[inside - reach : inside][::-1])
    return right + left >= enough


def _equal(a: bytes, b: bytes) -> int:
    """How many bytes from the start on are equal."""
    for number, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return number
    return min(len(a), len(b))


__all__ = ["Found", "Hit", "Searcher", "order_codes", "views"]
