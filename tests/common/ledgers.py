"""Ledgers and receipts of them, written with keys that are known."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import common
from common.ledger import Ledger
from common.ledger_check import verify
from common.ledger_format import Line

ROOT = Path(common.__file__).parents[1]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key().public_bytes_raw()


def write(path: Path, count: int = 4, **options: Any) -> list[Line]:
    with Ledger(path, KEY, {"site": "north"}, **options) as book:
        return [
            book.append({"kind": "reply", "bytes": n, "digest": f"{n:064x}", "word": "Zürich 🩻"})
            for n in range(count)
        ]


def problem(path: Path, receipts: Path | None = None) -> str:
    found = verify(path, PUBLIC, receipts).problem
    return str(found) if found else ""


def receipts_for(
    path: Path, lines: list[Line], name: str = "receipts.jsonl", **change: Any
) -> Path:
    place = path.parent / name
    with Ledger(place, OTHER) as book:
        for line in lines:
            told = {name: line.event[name] for name in ("bytes", "digest")}
            book.append(
                {
                    "kind": "receipt", "key": PUBLIC.hex(), "site": "north",
                    "sequence": line.sequence, "head": line.hash, **told, **change,
                }
            )  # fmt: skip
    return place
