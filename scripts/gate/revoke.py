"""`sonofed gate revoke`: take back that a bundle may run."""

from pathlib import Path
from typing import Annotated

import typer

from clients.gate.approvals import revoke as sign
from scripts.gate.approve import Folder
from scripts.live import say


def revoke(
    bundle: Annotated[
        str, typer.Argument(metavar="SHA256", help="The bundle's SHA-256, or its beginning.")
    ],
    folder: Folder = Path("gate"),
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Sign that a bundle may run no longer at this site."""
    found = sign(folder, bundle, note)
    say(f"{found.sha256}: revoked")
