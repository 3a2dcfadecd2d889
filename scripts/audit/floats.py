"""Weights as they travel: float32, float16, or bfloat16 as its bits, which are uint16."""

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

FLOATS = ("float32", "float16", "uint16")
"""Dtypes of weights on the wire; whole numbers of a study's own never are uint16."""
OTHERS = {"float32": "float16", "float16": "uint16", "uint16": "float16"}
"""To each another one, for a tensor that is not what it says."""


def packed(values: NDArray[np.floating], dtype: str) -> Array:
    """A tensor on its way.

    Args:
        values: Any shape, any float dtype.
        dtype: One of `FLOATS`.
    """
    if dtype != "uint16":
        return Array(np.asarray(values, dtype))
    bits = np.array(values, np.float32, order="C").view(np.uint32)
    return Array((bits >> np.uint32(16)).astype(np.uint16))


def unpacked(array: Array) -> NDArray[np.float32]:
    """The values of a tensor on its way, as float32 of its shape."""
    values = array.numpy()
    if array.dtype != "uint16":
        return np.asarray(values, np.float32)
    bits = np.array(values, np.uint32, order="C") << np.uint32(16)
    return bits.view(np.float32)


__all__ = ["FLOATS", "OTHERS", "packed", "unpacked"]
