"""Sites that leave a study of the consortium, and come back, while it runs or between two runs."""

from collections.abc import Collection
from pathlib import Path

from common.config.study import Study
from common.errors import InputError
from common.plan import make_plan
from scripts.run_folders import read_study
from scripts.study.place import run_number
from server.attendance import gone, note, read_changes
from server.checkpoint import RunFolder
from server.consortium import register as registers
from server.consortium.control import Control, SuperLinkAway
from server.consortium.place import Place
from server.consortium.register import Register


def drop(place: Place, folder: Path, site: str, reason: str) -> list[str]:
    """Have a run go on without a site, from its next round on.

    Args:
        place: The consortium's folder.
        folder: The run folder.
        site: Its name.
        reason: Why; it stands in the results.

    Returns:
        What the coordinator should know, in sentences.

    Raises:
        InputError: If the study has no such site, it was dropped already, or the run has finished.
    """
    study = _open(folder, site)
    before = gone(read_changes(folder))
    if site in before:
        raise InputError(f"{site}: was dropped already, on {before[site].time[:10]}")
    note(folder, "dropped", site, reason)
    said = [f"{site}: dropped from {folder}; from the next round on nobody waits for it"]
    if _under_way(place, registers.read(place), folder):
        said.append(
            "a round that is under way still does; `sonofed study stop` and `resume` end that too"
        )
    return said + stops(folder, study, {*before, site})


def add(place: Place, folder: Path, site: str) -> list[str]:
    """Have a site take part again, or for the first time, from the next round on.

    Args:
        place: The consortium's folder.
        folder: The run folder.
        site: Its name.

    Returns:
        What the coordinator should know, in sentences.

    Raises:
        InputError: If the study has no such site, it takes part already, is no member of the
            consortium, is not connected while the run goes on, or the run has finished.
    """
    _open(folder, site)
    if site not in gone(read_changes(folder)):
        raise InputError(f"{site}: takes part already")
    register = registers.read(place)
    check_members(register, [site])
    if _under_way(place, register, folder):
        with Control(place, register) as control:
            if not any(n.name == site and n.status == "online" for n in control.nodes()):
                raise InputError(
                    f"{site}: is not connected; start it there (`sonofed site up`), then add it"
                )
    note(folder, "added", site)
    return [f"{site}: takes part in {folder} from the next round on"]


def leave_out(folder: Path, study: Study, sites: Collection[str]) -> None:
    """Have a run begin without some sites; `add` lets them in later."""
    for site in study.sites:
        if site in sites:
            note(folder, "dropped", site, "not there at the start")


def check_left_out(study: Study, sites: Collection[str]) -> None:
    """Sites that a study is to begin without.

    Raises:
        InputError: If it has none of that name, or nobody to learn from or adapt to would be left.
    """
    for site in sites:
        _check_known(study, site)
    for role, of_role in (("target", study.targets), ("source", study.sources)):
        if of_role and set(of_role) <= set(sites):
            raise InputError(f"--without: no {role} would be left")


def check_members(register: Register, sites: Collection[str]) -> None:
    """All of them belong to the consortium.

    Raises:
        InputError: Naming those that do not.
    """
    known = [name for name, site in register.sites.items() if site.revoked is None]
    strangers = [name for name in sites if name not in known]
    if strangers:
        raise InputError(
            f"{', '.join(strangers)}: no sites of the consortium (its sites: "
            f"{', '.join(known) or 'none'})"
        )


def stops(folder: Path, study: Study, away: Collection[str]) -> list[str]:
    """Where the study will stop for want of sites, in sentences; empty where it will not."""
    said = [
        f"no {role} is left: the study stops unless one is added"
        for role, of_role in (("target", study.targets), ("source", study.sources))
        if of_role and set(of_role) <= set(away)
    ]
    if said:
        return said
    run = RunFolder(folder)
    return [
        f"{key}: nobody is left who trains it: the study stops there unless one is added"
        for key, training in make_plan(study).trainings.items()
        if set(training.participants) <= set(away) and not run.checkpoint(key).load(key).finished
    ]


def _open(folder: Path, site: str) -> Study:
    study = Study.model_validate(read_study(folder))
    _check_known(study, site)
    if (folder / "results.json").exists():
        raise InputError(f"{folder}: has finished; who took part is settled")
    return study


def _check_known(study: Study, site: str) -> None:
    if site not in study.sites:
        raise InputError(
            f"{site}: is no site of the study {study.name} (its sites: {', '.join(study.sites)})"
        )


def _under_way(place: Place, register: Register, folder: Path) -> bool:
    """Whether the run goes on just now; without a SuperLink none does."""
    number = run_number(folder)
    try:
        with Control(place, register) as control:
            return any(run.run_id == number and not run.over for run in control.runs())
    except SuperLinkAway:
        return False
