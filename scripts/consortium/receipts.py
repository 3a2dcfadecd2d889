"""`sonofed consortium receipts`: the center's signed receipts, for the sites that want to check."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from common import ledger_check
from common.errors import InputError
from common.ledger import head_path
from common.signing import public_path, read_public_key
from scripts.live import say
from scripts.study.place import DEFAULT, Folder
from server.consortium import register as registers
from server.consortium.place import Place
from server.receipts import RECEIPTS_FILE

app = typer.Typer(no_args_is_help=True, help="The center's signed receipts of what it received.")


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go.")],
    consortium: Folder = DEFAULT,
) -> None:
    """Copy the receipts of all runs, and the center's public key; sites check their ledgers.

    At the site: sonofed audit verify site/gate --receipts DIR --server-key DIR/receipts.key.pub
    """
    place = Place(consortium)
    registers.read(place)
    files = receipts_of(place)
    if not files:
        raise InputError(f"{place.runs}: no run has receipts yet")
    key = public_path(place.receipts_key)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(key, out / key.name)
    for file in files:
        verdict = ledger_check.verify(file, read_public_key(key))
        if verdict.problem is not None:
            raise InputError(f"{file}: is not sound: {verdict.problem}")
        target = out / f"{file.parent.name}.jsonl"
        shutil.copy(file, target)
        shutil.copy(head_path(file), head_path(target))
        say(f"{target}: {verdict.lines} lines")


def receipts_of(place: Place) -> list[Path]:
    """The receipts of all runs."""
    return sorted(place.runs.glob(f"*/{RECEIPTS_FILE}"))
