"""What a message holds, as one SHA-256 and a number of bytes: both ends count the same way.

Without torch and Flower: the gate counts so, and the server's receipts (docs/ledger.md).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

METRIC_BYTES = 8
"""What a scalar counts as: it travels as a 64-bit number."""

Measured = tuple[str, int, str]
"""Name, bytes and SHA-256 (hex) of one tensor as it travels, its .npy header included."""


def measure(name: str, data: bytes) -> Measured:
    """One tensor's entry in a message's digest."""
    return name, len(data), hashlib.sha256(data).hexdigest()


def told(metrics: Mapping[str, float | int]) -> dict[str, int | str]:
    """Metric values as a ledger writes them: numbers that are not counts as their shortest text."""
    return {name: v if isinstance(v, int) else repr(float(v)) for name, v in metrics.items()}


def message_digest(tensors: Iterable[Measured], metrics: Mapping[str, float | int]) -> str:
    """SHA-256 (hex) over tensors in their order and metrics by name; see docs/ledger.md."""
    listed = {"metrics": told(metrics), "tensors": [list(tensor) for tensor in tensors]}
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def message_bytes(tensors: Iterable[Measured], metrics: Mapping[str, float | int]) -> int:
    """Bytes of a message: its tensors' and 8 for each metric."""
    return sum(size for _, size, _ in tensors) + METRIC_BYTES * len(metrics)
