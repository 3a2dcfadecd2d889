"""How far the sites' ledgers had come, as their gates told the server beside each reply."""

from pathlib import Path
from typing import Any

from common.errors import InputError
from common.ledger_check import read, verify

RECEIPTS_FILE = "receipts.jsonl"
"""As `server.receipts` names it, which knows Flower; this module does not."""


def ledger_heads(run: Path) -> dict[str, Any]:
    """The last head of each site's ledger that the server has confirmed, and of its own receipts.

    Args:
        run: The run folder.

    Returns:
        `sites`: name to `key` (public, hex), `sequence` and `head` (hash of that line) and
        `replies` (receipts given); `receipts`: the same of the server's ledger. Empty where no
        reply came through a gate.

    Raises:
        InputError: If the receipts were changed or cut.
    """
    path = run / RECEIPTS_FILE
    if not path.exists():
        return {}
    verdict = verify(path)
    if verdict.problem is not None:
        raise InputError(f"{verdict.problem}: the run's receipts are not as they were written")
    by_key: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    own = {"key": verdict.key, "sequence": verdict.lines - 1, "head": verdict.head}
    for line in read(path):
        event = line.event
        if event["kind"] != "receipt":
            continue
        key = str(event["key"])
        # A site's first reply came before it had said its name; the last one bears it.
        names[key] = str(event["site"])
        before = by_key.get(key, {"sequence": -1, "replies": 0})
        last = max(before, dict(event), key=lambda told: int(told["sequence"]))
        by_key[key] = {
            "key": key, "sequence": last["sequence"], "head": last["head"],
            "replies": before["replies"] + 1,
        }  # fmt: skip
    if not by_key:
        return {}
    # A site that lost its ledger and began another has two keys; each stands for its replies.
    sites: dict[str, list[dict[str, Any]]] = {}
    for key, told in by_key.items():
        sites.setdefault(names[key], []).append(told)
    return {"sites": dict(sorted(sites.items())), "receipts": own}
