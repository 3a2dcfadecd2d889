"""Tensors on the way: encoded in the study's wire dtype, checked one by one on arrival."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.wire.errors import PayloadError
from common.wire.vocabulary import MetricSpec, TensorSpec

ARRAY_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
"""numpy's dtype for each wire dtype: bfloat16 travels as its 16 bits."""


def encode(tensor: Tensor, spec: TensorSpec, wire_dtype: str) -> NDArray[Any]:
    """One tensor as it travels.

    Args:
        tensor: The tensor, of the spec's shape.
        spec: Its entry in the vocabulary.
        wire_dtype: "float32", "float16" or "bfloat16"; integer tensors keep their own.

    Returns:
        A C-contiguous little-endian array.
    """
    plain = tensor.detach().cpu().contiguous()
    if not spec.is_float:
        return plain.numpy()
    if wire_dtype == "bfloat16":
        return plain.to(torch.bfloat16).view(torch.uint16).numpy()
    return plain.to(getattr(torch, wire_dtype)).numpy()


def array_dtype(spec: TensorSpec, wire_dtype: str) -> str:
    """Name of numpy's dtype that a tensor has while it travels."""
    return ARRAY_DTYPES[wire_dtype] if spec.is_float else spec.dtype


def parse(data: bytes, spec: TensorSpec, wire_dtype: str) -> NDArray[Any]:
    """The array in the bytes of a .npy file, which must be the only bytes that `encode` can give.

    The header is compared, not interpreted: no pickle, archive, foreign order of bytes or of
    axes, padding or trailing byte has a way in, and none can ask for memory.

    Args:
        data: As numpy writes an array.
        spec: The tensor that it should be.
        wire_dtype: The study's.

    Raises:
        PayloadError: If header or length differ from what the spec demands.
    """
    dtype = np.dtype(array_dtype(spec, wire_dtype))
    header = _npy_header(dtype.str, spec.shape)
    if not data.startswith(header):
        raise PayloadError(f"{spec.name}: not a plain array {dtype} {spec.shape}")
    if len(data) != len(header) + math.prod(spec.shape) * dtype.itemsize:
        raise PayloadError(f"{spec.name}: {len(data)} bytes are too few or too many")
    return np.frombuffer(data, dtype, offset=len(header)).reshape(spec.shape).copy()


@lru_cache(maxsize=4096)
def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def decode(array: NDArray[Any], spec: TensorSpec, wire_dtype: str) -> Tensor:
    """One tensor as it arrived, checked.

    Raises:
        PayloadError: If dtype or shape differ from the spec, or a value is no finite number.
    """
    expected = array_dtype(spec, wire_dtype)
    if str(array.dtype) != expected:
        raise PayloadError(f"{spec.name}: dtype {array.dtype}, expected {expected}")
    if array.shape != spec.shape:
        raise PayloadError(f"{spec.name}: shape {array.shape}, expected {spec.shape}")
    # asarray, not ascontiguousarray: that one gives a scalar an axis.
    tensor = torch.from_numpy(np.asarray(array, order="C"))
    if not spec.is_float:
        return tensor
    if wire_dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    full = tensor.to(getattr(torch, spec.dtype))
    # numpy's isfinite is thirty times as fast as torch's.
    if not np.isfinite(full.float().numpy()).all():
        raise PayloadError(f"{spec.name}: holds NaN or infinity")
    return full


def check_names(names: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    """The names, all of them, in the vocabulary's order.

    Raises:
        PayloadError: Naming the first missing, unexpected or misplaced tensor.
    """
    expected = [spec.name for spec in specs]
    if list(names) == expected:
        return
    for missing in [name for name in expected if name not in names][:1]:
        raise PayloadError(f"{missing}: missing")
    for extra in [name for name in names if name not in expected][:1]:
        raise PayloadError(f"{extra!r:.80}: unexpected")
    wrong = next(a for a, b in zip(expected, names, strict=False) if a != b)
    raise PayloadError(f"{wrong}: out of order")


def check_metrics(
    metrics: Mapping[str, Any], specs: Mapping[str, MetricSpec], *, complete: bool
) -> dict[str, float | int]:
    """The scalars of a reply, in the vocabulary's order.

    Args:
        metrics: What arrived.
        specs: What may arrive.
        complete: Whether each of the specs must be there.

    Raises:
        PayloadError: Naming what is missing, unknown, of the wrong kind, or out of range.
    """
    for name in metrics:
        if name not in specs:
            raise PayloadError(f"metric {name!r:.80}: unexpected")
    checked: dict[str, float | int] = {}
    for name, spec in specs.items():
        if name not in metrics:
            if complete:
                raise PayloadError(f"metric {name}: missing")
            continue
        value = metrics[name]
        if isinstance(value, bool) or not isinstance(value, int if spec.kind == "count" else float):
            raise PayloadError(f"metric {name}: {type(value).__name__}, expected a {spec.kind}")
        if not (math.isfinite(value) and spec.low <= value <= spec.high):
            raise PayloadError(f"metric {name}: {value} is outside [{spec.low}, {spec.high}]")
        checked[name] = value
    return checked


def payload_bytes(specs: Iterable[TensorSpec], wire_dtype: str) -> int:
    """Serialised tensor bytes of one message: what "MB moved" counts, the same in every engine."""
    return sum(
        math.prod(spec.shape) * np.dtype(array_dtype(spec, wire_dtype)).itemsize for spec in specs
    )


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.dim()
            else tensor.detach().cpu().numpy().tobytes()
        )
    return digest.hexdigest()


def cast_to_wire(state: Mapping[str, Tensor], wire_dtype: str) -> OrderedDict[str, Tensor]:
    """What a state looks like after a trip: rounded to the wire dtype."""
    dtype = getattr(torch, wire_dtype)
    return OrderedDict(
        (name, tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor)
        for name, tensor in state.items()
    )
