"""The coordinator's processes under one keeper: SuperLink, then the front before it."""

import common.environment  # noqa: F401, I001 - before Flower

import argparse
import logging
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from common.errors import InputError
from common.keeper import Keeper, Service, read_status, spawn
from server.consortium import front, superlink
from server.consortium import register as registers
from server.consortium.place import Place
from server.consortium.register import Register, now

START_S, POLL_S = 300.0, 0.3
TRIES = 3
log = logging.getLogger("sonofed.consortium")


def keeper(
    place: Place, register: Register, *, upstream: str | None = None, guard: int | None = None
) -> Keeper:
    """The keeper of a consortium's processes.

    Args:
        place: Its folder.
        register: Its register.
        upstream: Where the front sends requests; the SuperLink if None.
        guard: When this descriptor's other end closes, everything stops.
    """
    logs = place.logs

    def start_superlink() -> "subprocess.Popen[bytes]":
        return spawn(
            superlink.command(place, register), superlink.environment(place),
            logs / "superlink.log", folder=place.superlink,
        )  # fmt: skip

    def start_front() -> "subprocess.Popen[bytes]":
        front.write(place, registers.read(place), now(), upstream)
        return spawn(
            front.command(place), front.environment(), logs / "front-out.log", folder=place.front
        )

    services = [Service(superlink.NAME, start_superlink), Service(front.NAME, start_front)]
    about = {"consortium": register.name, "address": register.address}
    return Keeper(place.status, services, about, guard)


def settle(place: Place) -> None:
    """Have the SuperLink know the members of the register, and nobody else.

    Raises:
        InputError: If the SuperLink does not answer.
    """
    from server.consortium.control import Control

    register = registers.read(place)
    with Control(place, register) as control:
        for name, site in register.sites.items():
            if site.revoked is not None:
                control.expel(site.node_id)
            else:
                node_id = control.admit(name, site.node_key)
                if node_id != site.node_id:
                    with registers.changing(place) as changed:
                        changed.sites[name].node_id = node_id


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


def _settle_later(place: Place, register: Register) -> None:
    try:
        if wait_healthy(place, register):
            settle(place)
    except Exception:
        log.exception("the SuperLink was not told who the members are")


def main() -> None:
    """Run in the foreground until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--upstream")
    parser.add_argument("--guarded", action="store_true", help="stop when standard input closes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    place = Place(given.folder.absolute())
    register = registers.read(place)
    superlink.write_connection(place, register)
    guard = sys.stdin.fileno() if given.guarded else None
    kept = keeper(place, register, upstream=given.upstream, guard=guard)
    threading.Thread(target=_settle_later, args=(place, register), daemon=True).start()
    kept.run()


if __name__ == "__main__":
    main()
