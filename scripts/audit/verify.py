"""`sonofed audit verify`: chain, signatures and receipts of a ledger."""

from pathlib import Path
from typing import Annotated

import typer

from common import ledger_check
from common.errors import InputError
from common.signing import read_public_key
from scripts.foreign import tell
from scripts.live import say


def verify(
    ledger: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="ledger.jsonl, or the site's folder.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="The site's public key (PEM), from the site itself."),
    ] = None,
    receipts: Annotated[
        Path | None,
        typer.Option(
            metavar="RECEIPTS",
            help="The server's receipts.jsonl: what it received; or a folder with every run's.",
        ),
    ] = None,
    server_key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="The server's public key (PEM), known beforehand."),
    ] = None,
) -> None:
    """Check that nothing in a ledger was changed, removed or cut off. Exit code 1 if it was.

    Says the first bad line, and what could not be seen with what was given.
    """
    path = ledger / "ledger.jsonl" if ledger.is_dir() else ledger
    known, servers = (read_public_key(place) if place else None for place in (key, server_key))
    given = sorted(receipts.glob("*.jsonl")) if receipts and receipts.is_dir() else receipts
    if given == []:
        raise InputError(f"{receipts}: holds no receipts (*.jsonl)")
    verdict = ledger_check.verify(path, known, given, servers)
    for note in verdict.notes:
        tell(f"note: {note}")
    if verdict.problem is not None:
        tell(f"NOT SOUND: {verdict.problem}")
        say(f"{verdict.lines} lines {'are, by themselves' if verdict.whole else 'before it are'}")
        raise typer.Exit(1)
    files = "" if verdict.files == 1 else f" in {verdict.files} files"
    say(f"sound: {verdict.lines} lines{files}, key {verdict.key[:16]}..., head {verdict.head}")
