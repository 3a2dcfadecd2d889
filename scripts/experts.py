"""Where the experts' commands work: a target of a run on this machine, or a hospital's own site."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from clients.annotations import Choice, all_worklists, is_closed
from clients.asked import ASKED, Asked, keep_asked, read_asked
from clients.settings import SiteSettings
from clients.site_file import load_site
from clients.site_list import read_sites
from common.config.study import Study
from common.errors import InputError
from scripts.run_folders import read_study


@dataclass(frozen=True)
class Place:
    """A target that has selected images.

    Attributes:
        site: Its settings.
        asked: What the study asks of its experts.
        worklists: What was selected, by arm and budget.
    """

    site: SiteSettings
    asked: Asked
    worklists: dict[tuple[str, str], list[Choice]]


def place_in_run(run: Path, name: str) -> Place:
    """A target of a run on this machine.

    Raises:
        InputError: If there is no such run or target, or nothing has been selected there.
    """
    study = Study.model_validate(read_study(run))
    listed = run / "sites" / "sites.json"
    if not listed.exists():
        raise InputError(f"{run}: has no sites on this machine")
    targets = {site.name: site for site in read_sites(listed) if site.role == "target"}
    if name not in targets:
        raise InputError(f"{name!r} is no target of {run}; there are {', '.join(targets)}")
    place = _selected(targets[name], Asked.of(study))
    keep_asked(place.site.folder, study)  # a run that is older than this file has none yet
    return place


def place_of_site(file: Path, study: str = "") -> Place:
    """A hospital's own site.

    Args:
        file: Its site.toml.
        study: Name of the study, or of its folder; not needed where only one waits for experts.

    Raises:
        InputError: If the file is not sound, the site no target, nothing has been selected, or
            several studies have and none is named.
    """
    site = load_site(file).site
    if site.role != "target":
        raise InputError(f"{file}: {site.name} is a {site.role}; only a target's images are read")
    folders = sorted(path.parent.parent for path in site.folder.glob(f"*/selection/{ASKED}"))
    named = [f for f in folders if study in ("", f.name, f.name.rpartition("-")[0])]
    named = [f for f in named if not is_closed(f)] or named
    if folders and len(named) != 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{site.name}: name one study with --study; there are {names}")
    folder = named[0] if named else site.folder
    return _selected(site.model_copy(update={"folder": folder}), read_asked(folder))


def check_owner(place: Place) -> None:
    """Whoever writes what experts say must be the user that training runs as.

    Else the one could not go on where the other has written, and root least of all should.

    Raises:
        InputError: Naming that user.
    """
    owner = place.site.folder.stat().st_uid
    if owner != os.geteuid():
        raise InputError(
            f"{place.site.folder}: belongs to {_user(owner)}, who runs the training; run this as "
            f"{_user(owner)} too, not as {_user(os.geteuid())}"
        )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _selected(site: SiteSettings, asked: Asked) -> Place:
    worklists = all_worklists(site.folder)
    if not worklists:
        raise InputError(f"{site.name}: has selected no image yet, so there is nothing to annotate")
    return Place(site, asked, worklists)
