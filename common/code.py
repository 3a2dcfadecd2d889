"""Which code this is: one digest over its files."""

import hashlib
from pathlib import Path

import common

FIRST_PARTY = ("common", "clients", "server")


def code_digest() -> str:
    """SHA-256 over the first-party code that hospitals and centre run, file by file."""
    digest = hashlib.sha256()
    root = Path(common.__file__).parents[1]
    for package in FIRST_PARTY:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
