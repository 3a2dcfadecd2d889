"""`sonofed gate approvals`: which bundles of code may run at this site."""

from pathlib import Path

from rich.table import Table

from clients.gate.approvals import listing, notes
from scripts.foreign import cell, tell
from scripts.gate.approve import Folder
from scripts.live import say, show


def approvals(folder: Folder = Path("gate")) -> None:
    """List every bundle that was approved, and whether it still may run."""
    for line in notes(folder):
        tell(f"note: {line}")
    found = listing(folder)
    if not found:
        say(f"{folder}: nothing is approved")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("bundle", "approved", "files", "from source", "libraries", "revoked", "note"):
        table.add_column(name)
    for one in found:
        table.add_row(
            one.sha256, one.time[:19] + "Z", str(one.files), "yes" if one.rebuilt else "no",
            one.constraints[:12] or "-", one.revoked[:19] + "Z" if one.revoked else "-",
            cell(one.note),
        )  # fmt: skip
    show(table)
