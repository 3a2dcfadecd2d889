"""A study on a consortium: a run folder at the center, and a Flower run that works in it."""

import time
from collections.abc import Sequence
from pathlib import Path

from common.config.study import Study
from common.errors import InputError
from common.signing import make_key, public_path
from scripts import prepare
from scripts.study import sites
from scripts.study.bundle import Bundle
from scripts.study.place import RUN_FILE
from server.attendance import gone, read_changes
from server.consortium import register as registers
from server.consortium.control import Control, RunState, SuperLinkAway
from server.consortium.place import Place, write_file
from server.context import StudyStopped
from server.receipts import KEY_FILE

POLL_S = 1.0
PATIENCE_S = 300.0


def submit(
    place: Place,
    study: Study,
    folder: Path,
    bundle: Bundle,
    *,
    resume: bool = False,
    without: Sequence[str] = (),
) -> int:
    """Make the run folder and start a Flower run; where a run has begun, it goes on.

    Args:
        place: The consortium's folder.
        study: The study.
        folder: The run folder.
        bundle: The code that the sites run.
        resume: Go on with a run that has begun.
        without: Sites that a new run begins without.

    Returns:
        Flower's number of the run.

    Raises:
        InputError: If the folder holds something else, a run that goes on just now, or one that
            has finished; or if sites are missing in the consortium.
    """
    register = registers.read(place)
    sites.check_left_out(study, without)
    stand = prepare.look_at(folder, study, resume)
    away = {*without, *gone(read_changes(folder))}
    sites.check_members(register, [name for name in study.sites if name not in away])
    if stand is prepare.Stand.FINISHED:
        raise InputError(f"{folder}: holds a finished run of this study; choose another --out")
    with Control(place, register) as control:
        going = [run for run in control.runs() if not run.over]
        if going:
            raise InputError(
                f"run {going[0].run_id} is under way; `sonofed study stop` ends it, or wait"
            )
        if stand is prepare.Stand.NEW:
            prepare.make_folder(folder, study)
            share_key(place, folder)
            sites.leave_out(folder, study, without)
        settings: dict[str, str | int] = {"run": str(folder.absolute()), "jobs": len(study.sites)}
        run_id = control.start(bundle.data, settings)
    write_file(folder / RUN_FILE, f"{run_id}\n".encode())
    return run_id


def share_key(place: Place, folder: Path) -> None:
    """Have every run's receipts signed by one key: a site's ledger holds those of many runs."""
    if not place.receipts_key.exists():
        make_key(place.receipts_key)
    for path, mode in ((place.receipts_key, 0o600), (public_path(place.receipts_key), 0o644)):
        write_file(
            folder / path.name.replace(place.receipts_key.name, KEY_FILE), path.read_bytes(), mode
        )


def wait(place: Place, run_id: int, patience_s: float = PATIENCE_S) -> RunState:
    """Wait until a run has ended, as the SuperLink sees it.

    Args:
        place: The consortium's folder.
        run_id: Flower's number of the run.
        patience_s: For a SuperLink that is away: its keeper starts it again.

    Raises:
        InputError: If the SuperLink stays away.
    """
    register = registers.read(place)
    last = time.monotonic()
    while True:
        try:
            with Control(place, register) as control:
                while not (state := control.run(run_id)).over:
                    last = time.monotonic()
                    time.sleep(POLL_S)
                return state
        except SuperLinkAway:
            if time.monotonic() - last > patience_s:
                raise
            time.sleep(POLL_S)


def check(folder: Path, state: RunState) -> None:
    """Hold a run that has ended to what it says: Flower's status and the results must agree.

    Raises:
        StudyStopped: If the study did not finish.
    """
    if state.outcome != "completed" or not (folder / "results.json").exists():
        reason = state.details.removeprefix("ServerApp failed with exception: ")
        raise StudyStopped(f"{reason or 'the run ended early'} ({state.status}:{state.outcome})")
