"""`sonofed consortium`: the coordinator's commands."""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common import holder
from common.config.load import load_study
from common.errors import InputError
from common.keeper import is_up, lock_of, read_status, stop_keeper
from scripts.consortium import keep, receipts
from scripts.consortium.units import container, unit
from scripts.keepers import start_keeper
from scripts.live import say, show
from scripts.ports import free_ports
from server.consortium import front, membership, superlink
from server.consortium import register as registers
from server.consortium.authority import CA_DAYS, SITE_DAYS
from server.consortium.place import Place, write_file
from server.consortium.register import Register, now

app = typer.Typer(no_args_is_help=True, help="A consortium, seen from its coordinating center.")
app.add_typer(receipts.app, name="receipts")
DEFAULT = Path("consortium")
SOON = timedelta(days=30)
Folder = Annotated[
    Path,
    typer.Option(
        "--consortium", envvar="SONOFED_CONSORTIUM", metavar="DIR", help="The consortium's folder."
    ),
]
Days = Annotated[float, typer.Option(help="Days that the site's certificate holds.")]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    address: Annotated[
        str, typer.Option(help="host:port that hospitals will reach, such as center.example:9443.")
    ],
    name: Annotated[str, typer.Option(help="The consortium's name.")] = "",
    listen: Annotated[
        str, typer.Option(help="Where the front listens. Default: loopback, at the address's port.")
    ] = "",
    host: Annotated[
        list[str] | None, typer.Option(help="Further host name of the front; repeatable.")
    ] = None,
    superlink_port: Annotated[
        int, typer.Option(help="Loopback port of Flower's SuperLink; 0: a free one.")
    ] = 0,
    health_port: Annotated[
        int, typer.Option(help="Loopback port of its gRPC health service; 0: a free one.")
    ] = 0,
) -> None:
    """Found a consortium: authority, certificates, register, files for systemd and containers.

    The front listens on loopback until you say --listen 0.0.0.0:PORT, so that nothing opens to the
    outside by itself.
    """
    membership.check_address("address", address)
    place = Place(folder)
    free = free_ports(2)
    port, health = superlink_port or free[0], health_port or free[1]
    told = listen or f"127.0.0.1:{address.rpartition(':')[2]}"
    register = membership.found(place, name or folder.name, address, told, port, health, host or [])
    superlink.write_connection(place, register)
    write_file(place.root / "sonofed-consortium.service", unit(place).encode())
    for name_of_file, text in container(place).items():
        write_file(place.root / name_of_file, text.encode())
    called = f" as {register.name}" if name else ""
    say(f"{folder}: founded{called}, reached at {address}, listening on {told}")
    say(f"keep {place.authority} safe and backed up: whoever has its key can admit anybody")
    where = "" if folder == DEFAULT else f" --consortium {folder}"
    say(f"next: sonofed consortium up{where}")
    say(f"then: sonofed consortium invite SITE{where}")


@app.command("invite")
def invite(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The name that the site will have.")],
    consortium: Folder = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Default: SITE.invitation.")] = None,
    days: Annotated[float, typer.Option(help="Days that it holds.")] = membership.INVITATION_DAYS,
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY.toml", help="Name the study that is planned.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Let a site back in that was revoked.")
    ] = False,
) -> None:
    """Write an invitation: one file, good once. Hand it over by a way that you trust."""
    _check_days(days)
    path = _checked(out or Path(f"{registers.check_name(site)}.invitation"))
    digest = load_study(study, []).for_sites().digest if study else ""
    place = Place(consortium)
    before = registers.read(place)
    given = membership.invite(place, site, days=days, study=digest, again=again)
    write_file(path, given.model_dump_json(indent=1).encode() + b"\n", 0o600)
    for line in _known(before, site):
        say(line)
    say(f"{path}: for {site}, until {given.expires:%Y-%m-%d}; it holds a secret, so no open mail")


def _known(register: Register, site: str) -> list[str]:
    """What the coordinator should know of a name that is not new."""
    member = register.sites.get(site)
    another = "another hospital needs another name"
    if member is not None and member.revoked is None:
        return [f"{site} is a member already: this renews its certificate; {another}"]
    waiting = [
        invitation.expires for invitation in register.invitations.get(site, [])
        if invitation.token and invitation.expires > now()
    ]  # fmt: skip
    if not waiting:
        return []
    return [
        f"{site} has been invited already, until {max(waiting):%Y-%m-%d}, and that invitation "
        f"holds too: the first to use one is {site}; {another}"
    ]


def _check_days(days: float) -> None:
    if not 0 < days <= CA_DAYS:
        raise InputError(f"--days {days:g}: must be more than 0, and {CA_DAYS} at most")


def _checked(path: Path) -> Path:
    """A file that can be written; found out before anything has happened."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; its folder must be there, and yours")
    return path


@app.command("admit")
def admit(
    request: Annotated[Path, typer.Argument(metavar="SITE.request", help="What the site sent.")],
    consortium: Folder = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Default: SITE.admission.")] = None,
    days: Days = SITE_DAYS,
) -> None:
    """Admit a site: sign its key, bind certificate and node key to each other, tell the SuperLink.

    For a member with a new invitation it is the renewal of its certificate. The same request again
    gets the same admission again.
    """
    _check_days(days)
    place = Place(consortium)
    asked = membership.read_request(request)
    path = _checked(out or Path(f"{registers.check_name(asked.site)}.admission"))
    _check_here(place)
    given = membership.admit(
        place, asked, days=days,
        save=lambda it: write_file(path, it.model_dump_json(indent=1).encode() + b"\n"),
    )  # fmt: skip
    say(f"{path}: {given.site} is admitted until {given.expires:%Y-%m-%d}; send it this file")
    _tell(place)


@app.command("renew")
def renew(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A member.")],
    consortium: Folder = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Default: SITE.invitation.")] = None,
    days: Annotated[float, typer.Option(help="Days that it holds.")] = membership.INVITATION_DAYS,
) -> None:
    """Invite a member to a new certificate; the old one holds until it ends."""
    member = registers.read(Place(consortium)).site(site)
    membership.check_not_revoked(site, member)
    invite(site, consortium, out, days, None)


@app.command("revoke")
def revoke(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A member.")],
    consortium: Folder = DEFAULT,
) -> None:
    """Strike a site off at once: its certificates, its node, its open invitations."""
    place = Place(consortium)
    _check_here(place)
    member = membership.revoke(place, site)
    say(f"{site}: revoked, {len(member.certificates)} certificates hold no longer")
    _tell(place)


def _tell(place: Place) -> None:
    """Have what runs go by the register as it is now; what is away is told when it is back."""
    for line in keep.tell(place):
        say(f"note: {line}")


def _check_here(place: Place) -> None:
    """What runs must be within reach: in a container paths and processes are others.

    Raises:
        InputError: If it is not.
    """
    if is_up(place.status):
        holder.holder(lock_of(place.status))


@app.command("up")
def up(
    consortium: Folder = DEFAULT,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay; for systemd and containers.")
    ] = False,
) -> None:
    """Start the SuperLink and the front before it, and keep them at work."""
    place = Place(consortium.absolute())
    register = registers.read(place)
    front.executable()
    if is_up(place.status):
        raise InputError(f"{consortium}: is up already")
    keep.check_ports(register)
    if foreground:
        os.execv(sys.executable, [sys.executable, "-m", "scripts.consortium.keep", str(place.root)])
    start_keeper("scripts.consortium.keep", place.root, [], place.logs / "keeper.log")
    _wait(place, register)
    say(f"up: {register.name} at {register.address} (listens on {register.listen})")


def _wait(place: Place, register: Register) -> None:
    if not keep.wait_healthy(place, register):
        stop_keeper(place.status)
        raise InputError(f"the SuperLink does not start; see {place.logs / 'superlink.log'}")
    keep.settle(place)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        told = read_status(place.status)
        trouble = told["services"][front.NAME] if told else {}
        if trouble.get("pid"):
            return
        time.sleep(0.2)
    stop_keeper(place.status)
    raise InputError(f"the front does not start: {trouble.get('trouble') or place.logs}")


@app.command("down")
def down(consortium: Folder = DEFAULT) -> None:
    """Stop SuperLink and front. A run that is under way ends; `study resume` goes on with it."""
    place = Place(consortium)
    registers.read(place)
    say("down" if stop_keeper(place.status) else "nothing was running")


@app.command("status")
def status(
    consortium: Folder = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what runs, who is a member, who is connected. Exit code 1 if something should run."""
    from server.consortium.control import Control

    place = Place(consortium)
    register = registers.read(place)
    told = read_status(place.status)
    nodes = {}
    healthy = told is not None and superlink.is_healthy(place, register)
    if healthy:
        with Control(place, register) as control:
            nodes = {node.node_id: node.status for node in control.nodes()}
    sites = {name: _site(register, name, nodes) for name in register.sites}
    if as_json:
        typer.echo(json.dumps({"up": healthy, "services": told, "sites": sites}, default=str))
    else:
        say(f"{register.name} at {register.address}: {'up' if healthy else 'DOWN'}")
        for name, about in (told or {"services": {}})["services"].items():
            running = f"process {about['pid']}" if about["pid"] else f"DOWN {about['trouble']}"
            say(f"  {name}: {running}, started again {about['restarts']} times")
        table = Table()
        for column in ("site", "node", "certificate until", "remark"):
            table.add_column(column, no_wrap=True)
        for name, about in sites.items():
            table.add_row(name, about["node"], about["until"], about["remark"])
        for name, listed in register.invitations.items():
            if name not in sites and any(one.token for one in listed):
                table.add_row(name, "", "", "invited")
        show(table)
    if not healthy:
        raise typer.Exit(1)


def _site(register: Register, name: str, nodes: dict[int, str]) -> dict[str, str]:
    site, moment = register.sites[name], now()
    good = [c.expires for c in site.certificates if c.holds(moment)]
    until = max(good, default=None)
    remark = ""
    if site.revoked is not None:
        remark = f"revoked {site.revoked:%Y-%m-%d}"
    elif until is None:
        remark = "no certificate holds: renew"
    elif until - moment < SOON:
        remark = f"ends in {(until - moment).days} days: renew"
    state = "" if site.revoked is not None else nodes.get(site.node_id, "unknown")
    return {"node": state, "until": f"{until:%Y-%m-%d}" if until else "", "remark": remark}
