"""`sonofed site up`, `down`, `status`: a hospital's gate and SuperNode."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from clients import supervisor
from clients.finding import Finding
from clients.preflight import certificates, here
from clients.reach import reach
from clients.site_file import SiteFile, load_site
from clients.supernode import check_port
from common.errors import InputError
from common.keeper import is_up, read_status, stop_keeper
from scripts.keepers import start_keeper
from scripts.live import say

Site = Annotated[Path, typer.Option("--site", metavar="SITE.toml", help="The site's own file.")]
DEFAULT = Path("site/site.toml")
START_S = 60.0
REACH_S = 5.0
"""To wait for the center: whoever types this waits too."""
OPEN = (
    "OPEN NETWORK: training is not shut into an empty network; the gate is not its only door "
    "(site.toml: allow_open_network)"
)


def up(
    site: Site = DEFAULT,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; for systemd and containers.")
    ] = False,
) -> None:
    """Start gate and SuperNode, and keep them at work.

    The SuperNode, which runs the study's code, gets an empty network with one address in it, its
    gate's; it sees neither keys nor the gate's folder, and can only read the data. Where that
    cannot be had, this refuses, unless site.toml says allow_open_network = true. A center that
    cannot be reached just now keeps nothing from starting; a clock that is far from its does.
    """
    found = load_site(site)
    folder = site.absolute().parent
    if is_up(folder / supervisor.STATUS):
        raise InputError(f"{site}: is up already")
    problems = [finding for finding in _looked_at(found) if finding.standing == "fail"]
    if problems:
        raise InputError([f"{site}: {p.what}: {p.words}; {p.remedy}" for p in problems])
    if found.network.allow_open_network:
        check_port(found.gate.listen)
    if foreground:
        command = [sys.executable, "-m", "clients.supervisor", str(site.absolute())]
        os.execv(sys.executable, command)
    start_keeper("clients.supervisor", site.absolute(), [], folder / supervisor.LOGS / "keeper.log")
    _wait(folder)
    status(site)


def _looked_at(site: SiteFile) -> Iterator[Finding]:
    yield from here(site)
    yield from (finding for finding in reach(site, REACH_S) if finding.what == "clock")


def down(site: Site = DEFAULT) -> None:
    """Stop gate and SuperNode. What is spooled and written stays for the next start."""
    if not site.exists():
        raise InputError(f"{site}: no such file")
    say(
        "down" if stop_keeper(site.absolute().parent / supervisor.STATUS) else "nothing was running"
    )


def status(site: Site = DEFAULT) -> None:
    """Say what runs and until when the certificate holds. Exit code 1 if it does not run.

    It asks the center whether it takes this site; where that cannot be reached, work goes on when
    it can.
    """
    found = load_site(site)
    told = read_status(site.absolute().parent / supervisor.STATUS)
    say(f"{found.site.name}: {'up' if told else 'DOWN'}, speaks to {found.upstream.address} alone")
    bad = told is None
    for name, about in (told or {"services": {}})["services"].items():
        bad |= about["pid"] is None
        running = f"process {about['pid']}" if about["pid"] else f"DOWN {about['trouble']}"
        say(
            f"  {name}: {running} since {about['started']}, started again {about['restarts']} times"
        )
    for finding in (*certificates(found), *reach(found, REACH_S)):
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        say(f"  {finding.what}: {finding.words}{remedy}")
    if found.network.allow_open_network:
        say(f"  {OPEN}")
    if bad:
        raise typer.Exit(1)


def _wait(folder: Path) -> None:
    end = time.monotonic() + START_S
    told = None
    while time.monotonic() < end:
        told = read_status(folder / supervisor.STATUS)
        services = told["services"] if told else {}
        if services and all(about["pid"] for about in services.values()):
            return
        time.sleep(0.2)
    stop_keeper(folder / supervisor.STATUS)
    troubles = [
        a["trouble"] for a in (told or {"services": {}})["services"].values() if a["trouble"]
    ]
    logs = folder / supervisor.LOGS
    raise InputError("; ".join([*troubles, f"it does not start; see {logs}"]))
