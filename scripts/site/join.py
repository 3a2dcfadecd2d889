"""`sonofed site join`: keys and a request from an invitation; later, the admission."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from clients import join as joining
from clients.site_file import load_site
from common.errors import InputError
from common.joining import Invitation, read_file
from scripts.live import say
from scripts.site.units import unit


def join(
    invitation: Annotated[
        Path | None, typer.Argument(metavar="INVITE", help="The coordinator's invitation.")
    ] = None,
    admission: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Second step: the coordinator's answer.")
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="The site's own folder.")] = Path(
        "site"
    ),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the site's index.csv.")
    ] = None,
    role: Annotated[
        Literal["source", "target"] | None,
        typer.Option(
            help="source: its masks teach. target: its masks only judge; so it is where nothing is "
            "said."
        ),
    ] = None,
) -> None:
    """Join a consortium, in two steps.

    First: sonofed site join SITE.invitation --data DIR. Keys are made here and stay here;
    SITE.request goes to the coordinator. Second: sonofed site join --admission SITE.admission.
    A new invitation renews the certificate: same two steps, same keys.
    """
    if (invitation is None) == (admission is None):
        raise InputError("give an invitation, or --admission FILE, one of the two")
    if admission is not None:
        _take(admission, folder)
    if invitation is not None:
        _ask(invitation, folder, data, role)


def _ask(invitation: Path, folder: Path, data: Path | None, role: str | None) -> None:
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such folder")
    before = _address(folder)
    request = joining.ask(invitation, folder, data=data, role=role)
    try:
        (folder / "sonofed-site.service").write_text(unit(folder.absolute()), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    given, site = read_file(invitation, Invitation), load_site(folder / joining.SITE_FILE)
    say(f"{folder}: keys of {given.site} for {given.consortium} are made, and stay here")
    means = {"source": "its masks teach", "target": "its masks only judge"}[site.site.role]
    say(f"{given.site} is a {site.site.role} ({means}); its images: {site.site.data_folder}")
    _tell_address(folder, before, given.address)
    if given.study:
        say(f"the study that is planned has SHA-256 {given.study}")
    say(f"next: send {request} to the coordinator; it holds no secret")


def _take(admission: Path, folder: Path) -> None:
    before = _address(folder)
    taken = joining.take(admission, folder)
    file, policy = folder / joining.SITE_FILE, folder / joining.POLICY_FILE
    say(f"{taken.site} is admitted to {taken.consortium} until {taken.expires:%Y-%m-%d}")
    now = _tell_address(folder, before, taken.address)
    say(f"it speaks to {now} alone; nothing has to be let in from outside")
    if policy.exists():
        say(f"then: sonofed site down --site {file}; sonofed site up --site {file}")
        return
    steps = [
        f"copy configs/policy.toml to {policy}, and make it yours",
        f"sonofed gate policy manifest STUDY.toml --out {folder}/NAME.manifest.json; its lines "
        "belong into the policy",
        f"sonofed gate approve BUNDLE.fab --folder {folder / 'gate'}, once you have read the code",
    ]
    if os.getuid() == 0 and not load_site(file).network.user:
        steps.append(f"as root: name a system user for training, [network] user in {file}")
    steps += [f"sonofed site check --site {file}", f"sonofed site up --site {file}"]
    say("next:")
    for number, step in enumerate(steps, 1):
        say(f"  {number}. {step}")


def _address(folder: Path) -> str:
    """What site.toml names; empty where there is none yet."""
    path = folder / joining.SITE_FILE
    return load_site(path).upstream.address if path.exists() else ""


def _tell_address(folder: Path, before: str, told: str) -> str:
    """Say it where the center's address is not what site.toml names, or named; gives that."""
    path, now = folder / joining.SITE_FILE, _address(folder)
    if before and now != before:
        say(f"{path}: the center has moved; its address was {before}, and is {now} from here on")
    elif now != told:
        say(f"{path}: keeps {now}, which you chose; the center calls itself {told}")
    return now
