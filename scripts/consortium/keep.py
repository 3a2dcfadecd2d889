"""The coordinator's processes under one keeper: SuperLink, then the front before it."""

import common.environment  # noqa: F401, I001 - before Flower

import argparse
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.keeper import Keeper, Service, is_up, read_status, spawn
from scripts.consortium.front_reload import (
    FrontAway,
    reload_front,
    write_front,
)
from server.consortium import front, superlink
from server.consortium import register as registers
from server.consortium.place import Place, locked
from server.consortium.register import Register

START_S, POLL_S, TELL_S = 300.0, 0.3, 1.0
SETTLE_S = 20.0
TRIES = 3
log = logging.getLogger("sonofed.consortium")


def keeper(
    place: Place,
    register: Register,
    *,
    upstream: str | None = None,
    listen: str | None = None,
    guard: int | None = None,
) -> Keeper:
    """The keeper of a consortium's processes.

    Args:
        place: Its folder.
        register: Its register.
        upstream: Where the front sends requests; the SuperLink if None.
        listen: Where the front listens; where the register says if None.
        guard: When this descriptor's other end closes, everything stops.
    """
    logs = place.logs
    about = {
        "consortium": register.name, "address": register.address,
        "upstream": upstream, "listen": listen,
    }  # fmt: skip

    def start_superlink() -> "subprocess.Popen[bytes]":
        return spawn(
            superlink.command(place, register), superlink.environment(place),
            logs / "superlink.log", folder=place.superlink,
        )  # fmt: skip

    def start_front() -> "subprocess.Popen[bytes]":
        write_front(place, about)
        return spawn(
            front.command(place), front.environment(), logs / "front-out.log", folder=place.front
        )

    services = [Service(superlink.NAME, start_superlink), Service(front.NAME, start_front)]
    return Keeper(place.status, services, about, guard)


def settle(place: Place) -> None:
    """Have the SuperLink know the members of the register, and nobody else.

    Raises:
        InputError: If the SuperLink does not answer.
    """
    from server.consortium.control import Control

    # One at a time: the keeper does this too, and nobody is to be let in by an older register.
    with locked(place.root / ".settle.lock", SETTLE_S):
        register = registers.read(place)
        members = {n: site for n, site in register.sites.items() if site.revoked is None}
        kept = {site.node_key for site in members.values()}
        with Control(place, register) as control:
            for site in register.sites.values():
                # One that was let in again may have kept its key.
                if site.node_key not in kept:
                    control.expel(site.node_key)
            for name, site in members.items():
                node_id = control.admit(name, site.node_key)
                if node_id != site.node_id:
                    with registers.changing(place) as changed:
                        changed.sites[name].node_id = node_id


def tell(place: Place) -> list[str]:
    """Have what runs go by the register as it is now.

    Returns:
        What could not be told, and when it will be, one sentence each.
    """
    from server.consortium.control import SuperLinkAway

    if not is_up(place.status):
        return ["nothing runs just now; it takes effect with `sonofed consortium up`"]
    said = []
    try:
        reload_front(place)
    except FrontAway as error:
        said.append(f"{error}; it takes effect when the front is up again")
    except InputError as error:
        said.append(f"the front: {error}; its keeper will try again")
    try:
        settle(place)
    except SuperLinkAway as error:
        said.append(f"{error}; it takes effect there when the SuperLink is up again")
    except InputError as error:
        said.append(f"the SuperLink: {error}; its keeper will try again")
    return said


@dataclass
class Teller:
    """Tells front and SuperLink what the register says: whenever it changes or one has started.

    A command tells them too, at once; this is for what was away then.

    Attributes:
        place: The consortium's folder.
        kept: Its keeper.
        told: For each service the start and the register that it was told last.
    """

    place: Place
    kept: Keeper
    told: dict[str, object] = field(default_factory=dict)
    _troubled: dict[str, object] = field(default_factory=dict)

    def run(self) -> None:
        """Look for ever, once a moment."""
        while True:
            self.look()
            time.sleep(TELL_S)

    def look(self) -> None:
        """Tell each service that runs and has not been told; what fails is tried again."""
        for service in self.kept.services:
            process, mark = service.process, (service.restarts, self._stamp())
            if process is None or self.told.get(service.name) == mark:
                continue
            try:
                self._tell(service.name, {"services": {service.name: {"pid": process.pid}}})
                self.told[service.name] = mark
            except Exception as error:
                # Of each trouble once: the SuperLink takes a while to start.
                if self._troubled.get(service.name) != mark:
                    log.warning("%s does not know the members yet: %s", service.name, error)
                self._troubled[service.name] = mark

    def _stamp(self) -> object:
        try:
            return registers.stamp(self.place)
        except OSError:
            return None

    def _tell(self, name: str, running: Mapping[str, Any]) -> None:
        if name == front.NAME:
            reload_front(self.place, {**self.kept.about, **running})
        elif not superlink.is_healthy(self.place, registers.read(self.place)):
            raise InputError("it does not answer")
        else:
            settle(self.place)


def wait_healthy(place: Place, register: Register, timeout_s: float = START_S) -> bool:
    """Wait until the SuperLink answers; not for one that ends each time it is started."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if superlink.is_healthy(place, register):
            return True
        told = read_status(place.status)
        if told is not None and told["services"][superlink.NAME]["restarts"] >= TRIES:
            return False
        time.sleep(POLL_S)
    return False


def check_ports(register: Register) -> None:
    """Every port must be free before anything starts.

    Raises:
        InputError: Naming each that is taken.
    """
    problems = []
    for what, address in (
        ("the front", register.listen),
        ("SuperLink", superlink.address(register)),
        ("its health service", superlink.health_address(register)),
    ):
        host, _, port = address.rpartition(":")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
            except OSError as error:
                problems.append(
                    f"{what} cannot listen on {address}: {error.strerror}; stop what does, or "
                    "change it in register.json"
                )
    if problems:
        raise InputError(problems)


def main() -> None:
    """Run in the foreground until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--upstream")
    parser.add_argument("--listen", help="where the front listens, not as in the register")
    parser.add_argument("--guarded", action="store_true", help="stop when standard input closes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    place = Place(given.folder.absolute())
    register = registers.read(place)
    superlink.write_connection(place, register)
    guard = sys.stdin.fileno() if given.guarded else None
    kept = keeper(place, register, upstream=given.upstream, listen=given.listen, guard=guard)
    threading.Thread(target=Teller(place, kept).run, daemon=True).start()
    kept.run()


if __name__ == "__main__":
    main()
