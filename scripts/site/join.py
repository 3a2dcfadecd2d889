"""`sonofed site join`: keys and a request from an invitation; later, the admission."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clients import join as joining
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
        Literal["source", "target"],
        typer.Option(help="source: its masks teach. target: its masks only judge."),
    ] = "target",
) -> None:
    """Join a consortium, in two steps.

    First: sonofed site join SITE.invitation --data DIR. Keys are made here and stay here;
    SITE.request goes to the coordinator. Second: sonofed site join --admission SITE.admission.
    A new invitation renews the certificate: same two steps, same keys.
    """
    if (invitation is None) == (admission is None):
        raise InputError("give an invitation, or --admission FILE, one of the two")
    if admission is not None:
        taken = joining.take(admission, folder)
        say(f"{taken.site} is admitted to {taken.consortium} until {taken.expires:%Y-%m-%d}")
        say(f"it speaks to {taken.address} alone; nothing has to be let in from outside")
        if not (folder / joining.POLICY_FILE).exists():
            say(f"next: copy configs/policy.toml to {folder / joining.POLICY_FILE}, make it yours")
        say(f"then: sonofed site up --site {folder / joining.SITE_FILE}")
        return
    assert invitation is not None
    new = not (folder / joining.SITE_FILE).exists()
    if new and data is None:
        raise InputError("say where this site's images are: --data DIR (with index.csv)")
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such folder")
    place = data or folder
    request = joining.ask(invitation, folder, data=place, role=role)
    (folder / "sonofed-site.service").write_text(unit(folder.absolute()), encoding="utf-8")
    given = read_file(invitation, Invitation)
    say(f"{folder}: keys of {given.site} for {given.consortium} are made, and stay here")
    if given.study:
        say(f"the study that is planned has SHA-256 {given.study}")
    say(f"next: send {request} to the coordinator; it holds no secret")
