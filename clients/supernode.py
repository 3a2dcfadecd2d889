"""Flower's SuperNode at a site: in an empty network, with one address to speak to, its gate's.

The socket that the gate listens on is opened inside the empty network and handed out, so the gate
hears the SuperNode inside while it speaks to the consortium outside. See clients/namespace.py.
"""

import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clients import namespace
from clients.settings import SiteSettings
from common.environment import SWITCHES
from common.errors import InputError
from common.keeper import spawn
from common.plugins import FOLDER_VARIABLE

INSIDE_PORT = 9094
"""Of the SuperNode's Runtime API, on the empty network's own loopback."""
START_S = 30.0
EXECUTOR = Path(namespace.__file__).with_name("executor.py")
EMPTIED = ("/tmp", "/var/tmp", "/run", "/dev/shm")
PROBE = "import sys; sys.path[0:0] = [sys.argv[1]]; import namespace; namespace.leave(rooted=False)"


@dataclass(frozen=True)
class SuperNode:
    """How a site's SuperNode runs.

    Attributes:
        settings: The site's; they are all that the training code knows of the site.
        listen: Where the gate listens: "host:port".
        hidden: Folders that the training code must not see: keys, the gate's.
        log: Where its words go.
        open_network: Run without an empty network; it must be said in the site's file.
        owner: User and group of its own, where we are root.
        environment: Over the environment; for rehearsals.
    """

    settings: SiteSettings
    listen: str
    hidden: tuple[Path, ...]
    log: Path
    open_network: bool = False
    owner: tuple[int, int] | None = None
    environment: Mapping[str, str] | None = None

    @property
    def home(self) -> Path:
        """FLWR_HOME: where bundles are unpacked."""
        return self.settings.folder / "flower"

    def start(self) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        """Start it.

        Returns:
            The process, and the listening socket for the gate.

        Raises:
            InputError: If it cannot be shut in here.
        """
        if self.open_network:
            check_port(self.listen)
        for folder in (self.settings.folder, self.settings.cache, self.home, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
            if self.owner is not None:
                give(folder, self.owner)
        told = self.settings.folder / "site-settings.json"
        settings = self.settings.model_copy(update={"consortium": True})
        told.write_text(settings.model_dump_json(indent=1), encoding="utf-8")
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = spawn(
                    [
                        sys.executable, "-P", str(Path(namespace.__file__)),
                        json.dumps(self._settings(told)), str(theirs.fileno()),
                    ],
                    self._environment(),
                    self.log,
                    inherit=[theirs.fileno()],
                )  # fmt: skip
            ours.settimeout(START_S)
            try:
                _, descriptors, _, _ = socket.recv_fds(ours, 2, 1)
            except TimeoutError:
                descriptors = []
        if not descriptors:
            process.kill()
            process.wait()
            if self.open_network:
                raise InputError(
                    f"the SuperNode of {self.settings.name} does not start (see {self.log})"
                )
            raise InputError(
                f"the SuperNode of {self.settings.name} cannot be shut into an empty network here "
                f"(see {self.log}); site.toml's [network] allow_open_network = true would run it "
                "in the open, and be said everywhere"
            )
        return process, socket.socket(fileno=descriptors[0])

    @property
    def temporary(self) -> Path:
        """Its own temporary folder."""
        return self.settings.folder / "tmp"

    def commands(self, told: Path) -> list[list[str]]:
        """SuperNode, and the executor that starts its ClientApps.

        Args:
            told: The file with the site's settings.
        """
        runtime = f"127.0.0.1:{free_port() if self.open_network else INSIDE_PORT}"
        binaries = Path(sys.executable).parent
        node = [
            str(binaries / "flower-supernode"), "--insecure", "--superlink", self.listen,
            "--host", "127.0.0.1", "--port", runtime.rpartition(":")[2],
            "--isolation", "process", "--node-config", f"settings={json.dumps(str(told))}",
        ]  # fmt: skip
        return [node, [sys.executable, "-P", str(EXECUTOR), "--runtime-api-address", runtime]]

    def _settings(self, told: Path) -> dict[str, object]:
        host, _, port = self.listen.rpartition(":")
        return {
            "host": host,
            "port": int(port),
            "open_network": self.open_network,
            "owner": self.owner,
            "writable": [str(self.settings.folder), str(self.settings.cache)],
            "hidden": [str(folder) for folder in self.hidden if folder.is_dir()],
            "emptied": self._emptied(),
            "folder": str(self.settings.folder),
            "commands": self.commands(told),
            "environment": self._environment(),
        }

    def _emptied(self) -> list[str]:
        """Folders of other programs' files and sockets, unless something of ours lies there."""
        ours = (
            self.settings.folder, self.settings.cache, self.settings.data_root, *self.hidden,
            Path(sys.prefix), Path(sys.base_prefix), Path(namespace.__file__),
        )  # fmt: skip
        return [
            folder
            for folder in EMPTIED
            if Path(folder).is_dir() and not any(_holds(Path(folder), path) for path in ours)
        ]

    def _environment(self) -> dict[str, str]:
        kept = (
            "LANG", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH",
            FOLDER_VARIABLE,
        )  # fmt: skip
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            **SWITCHES,
            "FLWR_HOME": str(self.home),
            "HOME": str(self.settings.folder),
            "TMPDIR": str(self.temporary),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "MPLCONFIGDIR": str(self.temporary),
            **(self.environment or {}),
        }


def give(folder: Path, owner: tuple[int, int]) -> None:
    """Give a folder, and what training left in it, to the user that training runs as."""
    if folder.stat().st_uid == owner[0]:
        return
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(place) / name, *owner, follow_symlinks=False)
    os.chown(folder, *owner)


def owner_of(user: str) -> tuple[int, int] | None:
    """User and group that training runs as; None: whoever starts it.

    Raises:
        InputError: If there is no such user, or only root could run as another.
    """
    if not user:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise InputError(
            f"network.user: this machine knows no user {user!r}; "
            f"useradd --system --no-create-home {user} makes one"
        ) from None
    if found.pw_uid == os.getuid():
        # Root too, where somebody says so: without its power, by way of a user namespace.
        return None
    if os.getuid() != 0:
        raise InputError(f"network.user: only root can run training as {user}")
    return found.pw_uid, found.pw_gid


def can_be_shut_in() -> bool:
    """Whether this machine lets a process into an empty network."""
    folder = str(Path(namespace.__file__).parent)
    with tempfile.TemporaryFile() as out:
        found = subprocess.run(
            [sys.executable, "-c", PROBE, folder], stdout=out, stderr=out, check=False
        )
    return found.returncode == 0


def check_port(listen: str) -> None:
    """Whether the gate could listen there, in the machine's own network.

    Raises:
        InputError: If somebody else does.
    """
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            probe.listen(1)
        except OSError as error:
            raise InputError(
                f"[gate] listen: {listen} cannot be had ({error.strerror}); stop what listens "
                "there, or name another port in site.toml"
            ) from None


def free_port() -> int:
    """A loopback port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _holds(outer: Path, inner: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())
