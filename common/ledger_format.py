"""One line of a ledger: frame, canonical entry, signature. docs/ledger.md says it all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

FORMAT = "sonofed-ledger-1"
NOTHING = "0" * 64
"""What the first line says that it follows."""

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
SAFE_INTEGER = 2**53 - 1
LONGEST_LINE = 4 * 2**20

_OPEN, _MIDDLE, _CLOSE = b'{"digest":"', b'","entry":', b',"signature":"'
_BEFORE = len(_OPEN) + 64 + len(_MIDDLE)
_BEHIND = len(_CLOSE) + 128 + len(b'"}')

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line, as it stands in the file.

    Attributes:
        raw: Its bytes without the line feed.
        sequence: From 0, over all files of the ledger.
        time: UTC, "2026-11-24T20:22:51.123456Z".
        previous: Hash of the line before.
        event: What happened; `kind` says what sort of thing.
    """

    raw: bytes
    sequence: int
    time: str
    previous: str
    event: Event

    @property
    def hash(self) -> str:
        """SHA-256 of the line, in hex: the head of the ledger that ends with it."""
        return hashlib.sha256(self.raw).hexdigest()


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no white space, ASCII; no floats.

    Raises:
        TypeError: If a value in it is a float, no JSON, or an integer that not every reader of
            JSON can hold (beyond 2**53 - 1).
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a ledger's keys are words, not {key!r}")
            _check(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check(inner)
    elif isinstance(value, int):
        if abs(value) > SAFE_INTEGER:
            raise TypeError(f"{value} is too large for a ledger")
    elif not (value is None or isinstance(value, str)):
        raise TypeError(f"a ledger holds no {type(value).__name__}")


def seal(entry: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A signed line (without its line feed) around an entry."""
    body = canonical(entry)
    digest = hashlib.sha256(body).digest()
    signature = key.sign(FORMAT.encode() + b"\n" + digest)
    return b"".join(
        (_OPEN, digest.hex().encode(), _MIDDLE, body, _CLOSE, signature.hex().encode(), b'"}')
    )


def unseal(raw: bytes, key: bytes) -> dict[str, Any]:
    """The entry in a signed line.

    Args:
        raw: The line without its line feed.
        key: The public key, 32 bytes.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    entry = read_entry(raw)
    digest = hashlib.sha256(raw[_BEFORE : len(raw) - _BEHIND]).digest()
    if raw[len(_OPEN) : len(_OPEN) + 64] != digest.hex().encode():
        raise ValueError("its digest is not that of its entry")
    text = raw[len(raw) - 130 : len(raw) - 2]
    try:
        signature = bytes.fromhex(text.decode("ascii"))
        Ed25519PublicKey.from_public_bytes(key).verify(signature, FORMAT.encode() + b"\n" + digest)
    except (ValueError, InvalidSignature):
        raise ValueError("its signature is not by this key") from None
    if signature.hex().encode() != text:
        raise ValueError("its signature is not written in small letters")
    return entry


def read_entry(raw: bytes) -> dict[str, Any]:
    """The entry of a line whose frame is right; digest and signature are not looked at.

    Raises:
        ValueError: If it is no line of a ledger, or not written canonically.
    """
    body = raw[_BEFORE : len(raw) - _BEHIND]
    framed = (
        len(raw) > _BEFORE + _BEHIND
        and raw.startswith(_OPEN)
        and raw[len(_OPEN) + 64 : _BEFORE] == _MIDDLE
        and raw[len(raw) - _BEHIND : len(raw) - 130] == _CLOSE
        and raw.endswith(b'"}')
    )
    if not framed:
        raise ValueError("it is no whole line of a ledger")
    try:
        entry = json.loads(body)
        same = canonical(entry) == body
    except (ValueError, TypeError, RecursionError):
        raise ValueError("its entry is not readable") from None
    if not same or not isinstance(entry, dict):
        raise ValueError("its entry is not written canonically")
    return entry


def read_line(raw: bytes, key: bytes | None) -> Line:
    """One line, verified where a key is given.

    Raises:
        ValueError: If it is none, or not signed by that key.
    """
    entry = read_entry(raw) if key is None else unseal(raw, key)
    kinds = {"event": dict, "previous": str, "sequence": int, "time": str}
    if set(entry) != set(kinds) or any(type(entry[k]) is not t for k, t in kinds.items()):
        raise ValueError("its entry has other fields than a ledger's line")
    if not isinstance(entry["event"].get("kind"), str):
        raise ValueError("its event has no kind")
    return Line(raw, entry["sequence"], entry["time"], entry["previous"], entry["event"])


def read_head(path: Path, key: bytes) -> tuple[int, str]:
    """Sequence and hash in a head file.

    Raises:
        ValueError: If it is not sound or not signed by that key.
    """
    raw = path.read_bytes()
    entry = unseal(raw.removesuffix(b"\n"), key)
    kinds = {"head": str, "sequence": int, "time": str}
    if set(entry) != set(kinds) or any(type(entry[k]) is not t for k, t in kinds.items()):
        raise ValueError("it is no head file")
    return entry["sequence"], entry["head"]


def stamp(moment: datetime) -> str:
    """A time as the ledger writes it."""
    return moment.astimezone(UTC).strftime(TIME)


def time_back(before: str, after: str) -> int:
    """Microseconds by which a time lies before that of the line above; 0 where it does not.

    Raises:
        ValueError: If one is no time as the ledger writes it.
    """
    first, second = (datetime.strptime(text, TIME) for text in (before, after))
    return max(0, (first - second) // timedelta(microseconds=1))
