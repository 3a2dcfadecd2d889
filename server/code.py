"""Which code a run ran: a digest over its files, and the bundle's that was sent to the sites."""

from typing import Any

from common.code import code_digest
from server.checkpoint import RunFolder

STATE = "code"


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
