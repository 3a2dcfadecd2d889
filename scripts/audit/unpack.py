"""What may lie packed in a stream: zlib, gzip, zip, bzip2, xz, pictures, base64, hexadecimal.

What is unpacked is put together by kind, so that a search goes through it once.
"""

import base64
import binascii
import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

LEAST = 48
"""Bytes that must come out before a stream counts as one: shorter ones occur by chance."""
MOST = 64 * 2**20
"""Bytes that one stream may give."""
BETWEEN = bytes(16)
READ = 2**16

ZLIB = re.compile(rb"[\x08\x18\x28\x38\x48\x58\x68\x78][\x00-\xff]")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
HEX = re.compile(rb"[0-9A-Fa-f]{24,}")
PICTURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*|BM.{4}\x00{4}"
    rb"|\x00\x00\x00\x0cjP  ",
    re.DOTALL,
)


@dataclass(frozen=True)
class Unpacked:
    """What came out of streams of one kind.

    Attributes:
        kind: Its name.
        data: All of it, with zeros between.
        streams: How many.
        skipped: In place of data: what was too large, in words.
    """

    kind: str
    data: bytes = b""
    streams: int = 0
    skipped: str = ""


def unpack(data: "bytes | memoryview") -> Iterator[Unpacked]:
    """Everything that can be unpacked from bytes."""
    yield from _collect("zlib", _deflated(data))
    for kind, magic, make in _ARCHIVES:
        yield from _collect(kind, _archived(data, magic, make))
    yield from _collect("picture", _pictures(data))
    yield from _collect("base64", _base64(data))
    yield from _collect("hexadecimal", _hexadecimal(data))


def _collect(kind: str, streams: Iterator[bytes]) -> Iterator[Unpacked]:
    """Put streams together, as many at a time as memory may hold."""
    parts: list[bytes] = []
    size = 0
    for stream in streams:
        if len(stream) >= MOST:
            yield Unpacked(kind, skipped=f"{kind}: a stream gives more than {MOST >> 20} MiB")
        parts += [stream, BETWEEN]
        size += len(stream)
        if size >= MOST:
            yield Unpacked(kind, b"".join(parts), len(parts) // 2)
            parts, size = [], 0
    if parts:
        yield Unpacked(kind, b"".join(parts), len(parts) // 2)


def _inflated(data: "bytes | memoryview", place: int, machine: Any) -> bytes:
    """What a stream from a place on gives, up to its end or its first fault."""
    out: list[bytes] = []
    size = 0
    while place < len(data) and size < MOST:
        piece = bytes(data[place : place + (READ if out else 256)])
        try:
            got = machine.decompress(piece, max(1, MOST - size))
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError):
            break
        if got:
            out.append(got)
            size += len(got)
        if machine.eof or getattr(machine, "unconsumed_tail", b""):
            break
        place += len(piece)
    return b"".join(out)


def _deflated(data: "bytes | memoryview") -> Iterator[bytes]:
    """Streams of zlib and gzip, and raw deflate in zip archives."""
    behind = 0
    for place, window in _starts(data):
        if place < behind:
            continue
        got = _inflated(data, place, zlib.decompressobj(window))
        if len(got) >= LEAST:
            yield got


def _starts(data: "bytes | memoryview") -> Iterator[tuple[int, int]]:
    """Where a stream may begin, and zlib's word for its kind."""
    numbers = np.frombuffer(data, np.uint8)
    block = 2**22
    for start in range(0, max(0, len(numbers) - 1), block):
        first = numbers[start : start + block]
        second = numbers[start + 1 : start + block + 1]
        first = first[: len(second)]
        header = (first.astype(np.uint16) << 8) | second
        # RFC 1950: method 8, a window of at most 32 kB, no dictionary, and a check.
        is_zlib = ((first & 0x8F) == 8) & (header % 31 == 0) & ((second & 0x20) == 0)
        for place in np.flatnonzero(is_zlib):
            yield start + int(place), 15
        for place in np.flatnonzero(header == 0x1F8B):
            yield start + int(place), 31
        for place in np.flatnonzero(header == 0x504B):
            at = start + int(place)
            if bytes(data[at : at + 4]) == b"PK\x03\x04" and at + 30 <= len(data):
                name, extra = (
                    int.from_bytes(data[at + k : at + k + 2], "little") for k in (26, 28)
                )
                yield at + 30 + name + extra, -15


def _archived(data: "bytes | memoryview", magic: bytes, make: Callable[[], Any]) -> Iterator[bytes]:
    for match in re.finditer(re.escape(magic), data):
        got = _inflated(data, match.start(), make())
        if len(got) >= LEAST:
            yield got


def _lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=2**28)


_ARCHIVES: list[tuple[str, bytes, Callable[[], Any]]] = [
    ("bzip2", b"BZh", bz2.BZ2Decompressor),
    ("xz", b"\xfd7zXZ\x00", _lzma),
    ("lzma", b"\x5d\x00\x00", _lzma),
]


def _pictures(data: "bytes | memoryview") -> Iterator[bytes]:
    """Pixels of pictures in the stream; lossy ones are a little off, and correlate all the same."""
    for match in PICTURES.finditer(data):
        try:
            with Image.open(io.BytesIO(bytes(data[match.start() : match.start() + MOST]))) as found:
                if found.width * found.height <= MOST:
                    yield np.asarray(found.convert("L")).tobytes()
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ):
            continue


def _base64(data: "bytes | memoryview") -> Iterator[bytes]:
    """Runs of base64's letters, from each of the four places at which it may have begun."""
    for match in BASE64.finditer(data):
        run = match.group().rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            part = run[start:]
            part = part[: len(part) // 4 * 4]
            if part:
                yield base64.b64decode(part)


def _hexadecimal(data: "bytes | memoryview") -> Iterator[bytes]:
    """Runs of hexadecimal digits, whole bytes from both places."""
    for match in HEX.finditer(data):
        run = match.group()
        for part in (run, run[1:-1]):
            try:
                yield binascii.unhexlify(part[: len(part) // 2 * 2])
            except binascii.Error:
                continue
