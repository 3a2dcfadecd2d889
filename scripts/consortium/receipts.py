"""`sonofed consortium receipts`: the center's signed receipts, for the sites that want to check."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from common import ledger_check
from common.errors import InputError
from common.signing import public_path, read_public_key
from scripts.live import say
from scripts.study.place import DEFAULT, Folder, Run, run_folder
from server.consortium.place import Place
from server.receipts import KEY_FILE, RECEIPTS_FILE

app = typer.Typer(no_args_is_help=True, help="The center's signed receipts of what it received.")


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go.")],
    run: Run = None,
    consortium: Folder = DEFAULT,
) -> None:
    """Copy a run's receipts and their public key; a site checks its ledger against them.

    At the site: sonofed audit verify gate --receipts DIR/receipts.jsonl
    --server-key DIR/receipts.key.pub
    """
    folder = run_folder(Place(consortium), run)
    source, key = folder / RECEIPTS_FILE, public_path(folder / KEY_FILE)
    if not source.exists():
        raise InputError(f"{folder}: has no receipts yet")
    verdict = ledger_check.verify(source, read_public_key(key))
    if verdict.problem is not None:
        raise InputError(f"{source}: is not sound: {verdict.problem}")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out)
    shutil.copy(key, out)
    say(f"{out}: {verdict.lines} lines and the key {key.name}")
