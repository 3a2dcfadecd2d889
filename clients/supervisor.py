"""A site's two processes under one keeper: the SuperNode in its empty network, and its gate."""

import argparse
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.site_file import load_site
from clients.supernode import SuperNode, owner_of
from common.environment import SWITCHES
from common.errors import InputError
from common.keeper import Keeper, Service, spawn

STATUS, LOGS = "status.json", "logs"
log = logging.getLogger("sonofed.site")


def gate_command(site_file: Path, descriptor: int) -> list[str]:
    """The command that runs the gate on a listening socket that it inherits."""
    # Not by the `sonofed` command: that loads the training's code, which the gate must not.
    command = [sys.executable, "-P", "-m", "clients.gate.run"]
    return [*command, "--site", str(site_file), "--listen-fd", str(descriptor)]


@dataclass
class Supervisor:
    """Keeps a site's SuperNode and gate at work.

    Attributes:
        site_file: The site's `site.toml`.
        supernode: How its SuperNode runs.
        logs: Where their words go.
        gate: Makes the gate's command; a rehearsal may put something else there.
        listener: The socket that the gate accepts on.
    """

    site_file: Path
    supernode: SuperNode
    logs: Path
    gate: Callable[[Path, int], Sequence[str]] = gate_command
    environment: Mapping[str, str] = field(default_factory=dict)
    listener: socket.socket | None = None

    def services(self) -> list[Service]:
        """The SuperNode first, for it opens the gate's socket; the gate goes where it goes."""
        return [
            Service("supernode", self._start_supernode, takes_along=("gate",)),
            Service("gate", self._start_gate),
        ]

    def keeper(self, guard: int | None = None) -> Keeper:
        """Their keeper."""
        about = {
            "site": self.supernode.settings.name,
            "open_network": self.supernode.open_network,
        }
        return Keeper(self.site_file.parent / STATUS, self.services(), about, guard)

    def _start_supernode(self) -> "subprocess.Popen[bytes]":
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        process, self.listener = self.supernode.start()
        return process

    def _start_gate(self) -> "subprocess.Popen[bytes]":
        if self.listener is None:
            raise OSError("waits for the SuperNode's network")
        descriptor = self.listener.fileno()
        return spawn(
            self.gate(self.site_file, descriptor),
            {**os.environ, **SWITCHES, **self.environment},
            self.logs / "gate.log",
            folder=self.site_file.parent,
            inherit=[descriptor],
        )


def supervisor_of(site_file: Path, environment: Mapping[str, str] | None = None) -> Supervisor:
    """The supervisor of a site.

    Raises:
        InputError: If the site's file is not sound.
    """
    found = load_site(site_file)
    base = site_file.absolute().parent
    secret = (found.gate.folder, found.gate.node_key.parent, found.upstream.key.parent)
    for place in (found.site.folder, found.site.cache, found.site.data_folder):
        if any(place.resolve().is_relative_to(folder.resolve()) for folder in secret):
            raise InputError(
                f"{site_file}: {place} lies where keys lie; training must not see those, so keys "
                "and the gate's folder need folders of their own"
            )
    supernode = SuperNode(
        settings=found.site,
        listen=found.gate.listen,
        hidden=(*dict.fromkeys(secret), base / LOGS),
        log=base / LOGS / "supernode.log",
        open_network=found.network.allow_open_network,
        owner=owner_of(found.network.user),
        environment=environment,
    )
    return Supervisor(site_file.absolute(), supernode, base / LOGS)


def main() -> None:
    """Run in the foreground until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site_file", type=Path)
    parser.add_argument("--guarded", action="store_true", help="stop when standard input closes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--gate-module", help="for rehearsals: runs in place of the gate")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    guard = sys.stdin.fileno() if given.guarded else None
    environment = dict(line.split("=", 1) for line in given.set)
    found = supervisor_of(given.site_file, environment)
    if given.gate_module:
        module = [sys.executable, "-m", given.gate_module]
        found.gate = lambda *place: [*module, *gate_command(*place)[4:]]
    found.keeper(guard).run()


if __name__ == "__main__":
    main()
