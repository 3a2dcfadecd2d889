"""Which consortium and which run a command means."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from server.consortium.place import Place

RUN_FILE = "flower-run"
"""In the run folder: Flower's number of the latest run that works there."""
Folder = Annotated[
    Path,
    typer.Option(
        "--consortium",
        envvar="SONOFED_CONSORTIUM",
        metavar="DIR",
        help="The consortium's folder; of a rehearsal: poc/center.",
    ),
]
Run = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder. Default: the latest one.")
]
DEFAULT = Path("consortium")


def run_folder(place: Place, given: Path | None) -> Path:
    """The run that is meant.

    Raises:
        InputError: If there is none.
    """
    if given is not None:
        if not (given / RUN_FILE).exists():
            raise InputError(f"{given}: is no run of a consortium")
        return given
    found = sorted(place.runs.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{place.runs}: no run yet; `sonofed study submit` starts one")
    return found[-1].parent


def run_number(folder: Path) -> int:
    """Flower's number of the latest run in a run folder."""
    return int((folder / RUN_FILE).read_text(encoding="ascii"))
