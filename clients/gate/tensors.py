"""One tensor's bytes to its facts, in blocks: as flat in memory for 5 GB as for five bytes.

Nothing is interpreted that is not first compared: no pickle, archive, header of one's own, foreign
order of bytes or axes has a way in.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.common.constant import SType
from numpy.typing import NDArray

from clients.gate.facts import RefusedError, TensorFacts
from common.wire.gate import REFUSED_CONTENT

LONGEST_NAME = 256
DTYPES: Mapping[str, str] = {
    "float32": "<f4", "float16": "<f2", "uint16": "<u2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip
"""Dtypes that can travel at all; which may, the manifest says. uint16 is bfloat16's bits."""
FLOATS = ("float32", "float16", "uint16")
BLOCK = 2**16
"""Values that are looked at at once."""

Pieces = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class Told:
    """What an array says of itself beside its bytes: free words until they are compared."""

    dtype: Any
    shape: Any
    stype: Any


def read_tensor(
    name: str, told: Told, pieces: Pieces, incoming: Pieces | None = None
) -> TensorFacts:
    """One tensor's facts.

    Args:
        name: Its name.
        told: What it says it is.
        pieces: Its bytes in order, cut anywhere.
        incoming: The bytes of the tensor of that name, dtype and shape that came with the
            instruction; they were checked then.

    Raises:
        RefusedError: If its bytes are not the only ones that numpy writes for what it says it is.
    """
    check_name(name)
    dtype, shape = told.dtype, told.shape
    if type(dtype) is not str or dtype not in DTYPES:
        raise refused(f"{name}: dtype {dtype!r:.80} does not travel")
    if type(shape) is not tuple or any(type(side) is not int or side < 0 for side in shape):
        raise refused(f"{name}: shape {shape!r:.80} is none")
    if told.stype != SType.NUMPY:
        raise refused(f"{name}: stype {told.stype!r:.80} is not {SType.NUMPY}")
    bytes_ = _Counted(name, told, pieces)
    if dtype in FLOATS:
        finite, square, update = _floats(dtype, bytes_, incoming, len(bytes_.header))
        low = high = None
    else:
        low, high = _whole_numbers(name, dtype, bytes_)
        finite, square, update = True, None, None
    sha256 = bytes_.digest.hexdigest()
    return TensorFacts(name, dtype, shape, bytes_.size, sha256, finite, low, high, square, update)


class _Counted:
    """The values of a tensor in blocks, while its bytes are counted, hashed and compared."""

    def __init__(self, name: str, told: Told, pieces: Pieces) -> None:
        self.words = f"{told.dtype} {list(told.shape)}"
        self.name = name
        self.pieces = pieces
        self.header = npy_header(DTYPES[told.dtype], told.shape)
        self.wanted = npy_bytes(told.dtype, told.shape)
        self.dtype = DTYPES[told.dtype]
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for block in blocks(self._checked(), self.dtype, 0):
            # Only the last is short; then all bytes have been counted.
            if len(block) < BLOCK and self.size != self.wanted:
                break
            yield block
        if self.size != self.wanted:
            raise self._wrong_size(self.size)

    def _wrong_size(self, size: int) -> RefusedError:
        return refused(f"{self.name}: {size} bytes are too few or too many for {self.words}")

    def _checked(self) -> Iterator[bytes | memoryview]:
        """The bytes behind the header."""
        head = bytearray()
        for piece in self.pieces:
            self.size += len(piece)
            self.digest.update(piece)
            if self.size > self.wanted:
                raise self._wrong_size(self.size)
            missing = len(self.header) - len(head)
            head += piece[:missing]
            if not self.header.startswith(head):
                raise refused(f"{self.name}: is not a plain array {self.words}")
            if len(piece) > missing:
                yield memoryview(piece)[missing:]
        if len(head) < len(self.header):
            raise refused(f"{self.name}: is not a plain array {self.words}")


def blocks(pieces: Pieces, dtype: str, skip: int) -> Iterator[NDArray[Any]]:
    """Values in blocks of `BLOCK`, however the bytes were cut.

    Args:
        pieces: The bytes.
        dtype: numpy's.
        skip: Bytes of a header that come first.
    """
    size = BLOCK * np.dtype(dtype).itemsize
    held = b""
    for piece in pieces:
        view = memoryview(piece)
        dropped = min(skip, len(view))
        view, skip = view[dropped:], skip - dropped
        if held:
            # Only what lies across two pieces is copied.
            missing = size - len(held)
            held, view = held + view[:missing], view[missing:]
            if len(held) < size:
                continue
            yield np.frombuffer(held, dtype)
            held = b""
        whole = len(view) - len(view) % size
        for start in range(0, whole, size):
            yield np.frombuffer(view[start : start + size], dtype)
        held = bytes(view[whole:])
    whole = len(held) - len(held) % np.dtype(dtype).itemsize
    if whole:
        yield np.frombuffer(held[:whole], dtype)


def _floats(
    dtype: str, values: Iterable[NDArray[Any]], incoming: Pieces | None, skip: int
) -> tuple[bool, float | None, float | None]:
    """Whether all are finite; sums of squares of what came, and of the difference from it."""
    olds = blocks(incoming, DTYPES[dtype], skip) if incoming is not None else None
    finite, square, update = True, 0.0, 0.0
    # What is not finite is refused for that; here it must only not raise a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for block in values:
            finite = finite and _finite(dtype, block)
            if olds is not None:
                old = _as_float(dtype, next(olds))
                difference = _as_float(dtype, block) - old
                square += _squares(old)
                update += _squares(difference)
    if olds is None:
        return finite, None, None
    return finite, square, update


def _squares(values: NDArray[np.float64]) -> float:
    """Their sum, without BLAS, whose threads would take the cores from training."""
    return float(np.einsum("i,i->", values, values))


def _whole_numbers(
    name: str, dtype: str, values: Iterable[NDArray[Any]]
) -> tuple[int | None, int | None]:
    low: int | None = None
    high: int | None = None
    for block in values:
        if dtype == "bool" and block.view(np.uint8).max() > 1:
            raise refused(f"{name}: a truth value is neither 0 nor 1")
        least, most = int(block.min()), int(block.max())
        low = least if low is None else min(low, least)
        high = most if high is None else max(high, most)
    return low, high


def _finite(dtype: str, values: NDArray[Any]) -> bool:
    if dtype == "uint16":
        # bfloat16's exponent, all ones: NaN or infinity.
        return bool(((values & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())


def _as_float(dtype: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if dtype == "uint16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


@lru_cache(maxsize=4096)
def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """The one header that numpy writes for such an array."""
    buffer = BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def npy_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of such a tensor's .npy form.

    Args:
        dtype: One of `DTYPES`.
        shape: Its shape.
    """
    descr = DTYPES[dtype]
    return len(npy_header(descr, shape)) + math.prod(shape) * np.dtype(descr).itemsize


def check_name(name: object) -> None:
    """Whether a tensor or scalar may be called so.

    Raises:
        RefusedError: If not.
    """
    if type(name) is not str or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise refused(f"{name!r:.80}: is no name")


def refused(words: str) -> RefusedError:
    """A message that is not what the manifest says."""
    return RefusedError(REFUSED_CONTENT, words)
