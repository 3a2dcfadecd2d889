"""The manifest: every tensor and scalar that a study's messages may carry, each by name.

`sonofed gate policy manifest` writes it from the study's models on the meta device; the gate reads
the file and holds it to the digest in the policy. No torch here.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError

FORMAT = "sonofed-manifest-1"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Tensor(_Strict):
    """Name, dtype as it travels ("uint16": bfloat16's bits) and shape; order is the list's."""

    name: str = Field(min_length=1)
    dtype: str
    shape: tuple[int, ...]


class Metric(_Strict):
    """One scalar: a whole number or not, and its range."""

    kind: Literal["count", "number"]
    low: float
    high: float


class Exchange(_Strict):
    """One kind of message and its reply.

    Attributes:
        down: Tensors to the site.
        up: Tensors from the site.
        metrics: Scalars from the site.
        complete: Whether all of them must come.
    """

    down: tuple[Tensor, ...] = ()
    up: tuple[Tensor, ...] = ()
    metrics: dict[str, Metric] = {}
    complete: bool = True


class Manifest(_Strict):
    """Exchanges by name (`clients.gate.facts.exchange_name`)."""

    exchanges: Mapping[str, Exchange]


def dump(manifest: Manifest) -> str:
    """The manifest as a file: lists of tensors that recur stand once, sorted, one text for each.

    Returns:
        JSON that ends with a line feed.
    """
    lists: dict[str, Any] = {}

    def listed(tensors: tuple[Tensor, ...]) -> str:
        rows = [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in tensors]
        name = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        lists[name] = rows
        return name

    exchanges = {
        name: {
            "down": listed(exchange.down),
            "up": listed(exchange.up),
            "metrics": {
                key: [metric.kind, metric.low, metric.high]
                for key, metric in exchange.metrics.items()
            },
            "complete": exchange.complete,
        }
        for name, exchange in manifest.exchanges.items()
    }
    whole = {"format": FORMAT, "tensors": lists, "exchanges": exchanges}
    return json.dumps(whole, sort_keys=True, indent=1) + "\n"


def digest(manifest: Manifest) -> str:
    """SHA-256 (hex) of the file that `dump` gives; the policy names it."""
    return hashlib.sha256(dump(manifest).encode()).hexdigest()


def load(text: str, origin: str) -> Manifest:
    """Read what `dump` gave.

    Raises:
        InputError: If it is no manifest, or not written as `dump` writes it.
    """
    try:
        whole = json.loads(text)
        if whole["format"] != FORMAT:
            raise InputError(f"{origin}: is a {whole['format']}, not a {FORMAT}")
        lists = {
            name: tuple(Tensor(name=row[0], dtype=row[1], shape=row[2]) for row in rows)
            for name, rows in whole["tensors"].items()
        }
        exchanges = {
            name: Exchange(
                down=lists[value["down"]],
                up=lists[value["up"]],
                metrics={
                    key: Metric(kind=metric[0], low=metric[1], high=metric[2])
                    for key, metric in value["metrics"].items()
                },
                complete=value["complete"],
            )
            for name, value in whole["exchanges"].items()
        }
        manifest = Manifest(exchanges=exchanges)
    except (ValueError, TypeError, KeyError, IndexError, ValidationError):
        raise InputError(f"{origin}: is no manifest of a study") from None
    if dump(manifest) != text:
        raise InputError(f"{origin}: is not written as `sonofed gate policy manifest` writes it")
    return manifest


def read(path: Path) -> Manifest:
    """Read a manifest's file.

    Raises:
        InputError: If it is not there or no manifest.
    """
    try:
        return load(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no manifest ({error})") from None
