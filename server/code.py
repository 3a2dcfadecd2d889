"""Which code a run ran: a digest over its files, and the bundle's that was sent to the sites."""

import hashlib
from pathlib import Path
from typing import Any

import common
from server.checkpoint import RunFolder

FIRST_PARTY = ("common", "clients", "server")
STATE = "code"


def code_digest() -> str:
    """SHA-256 over the first-party code that hospitals and centre run, file by file."""
    digest = hashlib.sha256()
    root = Path(common.__file__).parents[1]
    for package in FIRST_PARTY:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def note_code(run: RunFolder, bundle: str) -> None:
    """Write down what runs now; a run that goes on with other code names both.

    Args:
        run: The run folder.
        bundle: SHA-256 of the code that was sent to the sites; empty in a simulation.
    """
    told: list[dict[str, str]] = noted_code(run)
    now = {"code": code_digest()} | ({"bundle": bundle} if bundle else {})
    if told[-1:] != [now]:
        run.write_state(STATE, [*told, now])


def noted_code(run: RunFolder) -> list[dict[str, str]]:
    """Digests `code` and, where code was sent, `bundle`, oldest first."""
    found: Any = run.read_state(STATE)
    return list(found or [])
