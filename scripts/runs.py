"""`sonofed runs`: the runs in a folder and how far each is."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.errors import InputError
from scripts.live import console, say
from scripts.run_folders import RunStatus, find_runs, status_of

STYLES = {"finished": "green", "running?": "cyan", "stopped": "yellow"}


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder with runs, or with sweeps of runs.")
    ] = Path("runs"),
) -> None:
    """List runs: finished, running? (files changed within ten minutes) or stopped, and where.

    A stopped run goes on with the command that began it and --resume.
    """
    try:
        found = find_runs([folder])
    except InputError:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder") from None
        say(f"no runs in {folder}")
        return
    states = [status_of(run) for run in found]
    if not console.is_terminal:
        for state in states:
            say("  ".join(_cells(state)))
        return
    table = Table()
    for name in ("run", "study", "seed", "digest", "state", "at", "age", ""):
        table.add_column(name, justify="right" if name in ("seed", "age") else "left")
    for state in states:
        cells = _cells(state)
        cells[4] = f"[{STYLES[state.state]}]{state.state}[/]"
        table.add_row(*cells)
    console.print(table)


def age(seconds: float) -> str:
    """5 min, 3 h, 2 d."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _cells(run: RunStatus) -> list[str]:
    return [
        str(run.folder),
        run.name,
        str(run.seed),
        run.digest or "-",
        run.state,
        run.place,
        age(run.age_s),
        ", ".join(run.marks),
    ]
