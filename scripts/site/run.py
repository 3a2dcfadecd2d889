"""`sonofed site up`, `down`, `status`: a hospital's gate and SuperNode."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from clients import namespace, supervisor
from clients.site_file import SiteFile, load_site
from clients.supernode import can_be_shut_in, owner_of
from common.errors import InputError
from common.keeper import is_up, read_status, stop_keeper
from scripts.keepers import start_keeper
from scripts.live import say

Site = Annotated[Path, typer.Option("--site", metavar="SITE.toml", help="The site's own file.")]
DEFAULT = Path("site/site.toml")
SOON = timedelta(days=30)
START_S = 60.0
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
    cannot be had, this refuses, unless site.toml says allow_open_network = true.
    """
    found = load_site(site)
    problems = [*_files(found), *_certificate(found)]
    if not found.network.allow_open_network and not can_be_shut_in():
        problems.append(
            "this machine lets no process into an empty network (user namespaces are switched off; "
            "start as root, or set kernel.unprivileged_userns_clone = 1); with [network] "
            "allow_open_network = true in site.toml training runs in the open, and that is said "
            "everywhere"
        )
    problems += _user(found)
    if problems:
        raise InputError([f"{site}: {problem}" for problem in problems])
    folder = site.absolute().parent
    if is_up(folder / supervisor.STATUS):
        raise InputError(f"{site}: is up already")
    if foreground:
        command = [sys.executable, "-m", "clients.supervisor", str(site.absolute())]
        os.execv(sys.executable, command)
    start_keeper("clients.supervisor", site.absolute(), [], folder / supervisor.LOGS / "keeper.log")
    _wait(folder)
    status(site)


def down(site: Site = DEFAULT) -> None:
    """Stop gate and SuperNode. What is spooled and written stays for the next start."""
    say(
        "down" if stop_keeper(site.absolute().parent / supervisor.STATUS) else "nothing was running"
    )


def status(site: Site = DEFAULT) -> None:
    """Say what runs and until when the certificate holds. Exit code 1 if it does not run."""
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
    for line in _certificate(found):
        say(f"  {line}")
    until = _until(found)
    if until is not None:
        say(f"  certificate: until {until:%Y-%m-%d}")
        if until - datetime.now(UTC) < SOON:
            say("  it ends soon: ask the coordinator for a new invitation (consortium renew)")
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


def _files(found: SiteFile) -> list[str]:
    wanted = {
        "the node key": found.gate.node_key,
        "the certificate": found.upstream.certificate,
        "its key": found.upstream.key,
        "the authority's certificate": found.upstream.ca,
        "the policy": found.gate.policy,
    }
    problems = [
        f"{what} is not there: {path}" for what, path in wanted.items() if not path.exists()
    ]
    for what in ("the node key", "its key"):
        path = wanted[what]
        if path.exists() and path.stat().st_mode & 0o077:
            problems.append(f"{what} can be read by others: chmod 600 {path}")
    if not (found.site.data_folder / "index.csv").exists():
        problems.append(f"no index.csv in {found.site.data_folder}; `sonofed data check` helps")
    return problems


def _user(found: SiteFile) -> list[str]:
    """Root runs training as somebody else, who must be able to read what it needs."""
    if os.getuid() != 0:
        return []
    if not found.network.user:
        return [
            'started as root: name a system user for training in [network] user = "NAME" '
            "(useradd --system --no-create-home NAME)"
        ]
    try:
        owner = owner_of(found.network.user)
    except InputError as error:
        return error.problems
    if owner is None:
        return []
    needed = [found.site.data_folder / "index.csv", Path(sys.executable), Path(namespace.__file__)]
    return [
        f"the user {found.network.user} cannot read {path}" for path in needed
        if path.exists() and not _readable(path, owner)
    ]  # fmt: skip


def _readable(path: Path, owner: tuple[int, int]) -> bool:
    command = ["/usr/bin/test", "-r", str(path)]
    found = subprocess.run(
        command, user=owner[0], group=owner[1], extra_groups=[], check=False, cwd="/"
    )
    return found.returncode == 0


def _certificate(found: SiteFile) -> list[str]:
    until = _until(found)
    if until is not None and until < datetime.now(UTC):
        return [f"the certificate ended on {until:%Y-%m-%d}: ask for a new invitation"]
    return []


def _until(found: SiteFile) -> datetime | None:
    try:
        data = found.upstream.certificate.read_bytes()
        return x509.load_pem_x509_certificate(data).not_valid_after_utc
    except (OSError, ValueError):
        return None
