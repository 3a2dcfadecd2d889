"""The gate as a process of its own, on a socket that outlives it: to be killed and begun again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from clients.gate.manifest import digest, dump
from common.ledger_check import read, verify
from tests.clients.gate.center import BUNDLE, Center
from tests.clients.gate.world import MANIFEST

SITE = """
[site]
name = "west"
role = "target"
data = {{ folder = "us" }}
data_root = "."
folder = "work"
cache = "cache"
[upstream]
address = "{address}"
ca = "{ca}"
certificate = "{certificate}"
key = "{key}"
{more}
"""
POLICY = """
site = "west"
[studies.wrist]
manifest = "wrist.json"
sha256 = "{digest}"
[stages.mim]
update_norm = 1.0
[metrics]
loss = {{ kind = "number", low = -10, high = 10 }}
patients = {{ kind = "count", low = 0, high = 1000 }}
[study]
name = {{}}
"sites.*" = {{}}
"mim.*" = {{}}
"mim.epochs" = {{ kind = "count", low = 1, high = 10 }}
[integers]
histogram = {{ kind = "count", low = 0, high = 1000 }}
[bundles]
approved = ["{bundle}"]
"""


def write_site(folder: Path, center: Center, more: str = "") -> Path:
    """A site's files."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = center.keys
    (folder / "wrist.json").write_text(dump(MANIFEST))
    (folder / "policy.toml").write_text(
        POLICY.format(digest=digest(MANIFEST), bundle=sha256(BUNDLE).hexdigest())
    )
    site = folder / "site.toml"
    site.write_text(
        SITE.format(
            address=center.address, ca=keys.ca, certificate=keys.certificate, key=keys.key,
            more=more,
        )
    )  # fmt: skip
    return site


@dataclass
class Process:
    """A gate that can be killed."""

    site: Path
    listener: socket.socket
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    starts: int = 0

    @property
    def address(self) -> str:
        return "127.0.0.1:{1}".format(*self.listener.getsockname())

    @property
    def log(self) -> str:
        return self.site.with_name("gate.log").read_text()

    def start(self) -> None:
        descriptor = self.listener.fileno()
        command = [
            sys.executable, "-P", "-m", "clients.gate.run", "--site", str(self.site),
            "--listen-fd", str(descriptor),
        ]  # fmt: skip
        with self.site.with_name("gate.log").open("ab") as log:
            self.running.append(
                subprocess.Popen(command, pass_fds=(descriptor,), stderr=log, stdout=log)
            )
        self.starts += 1

    def kill(self) -> None:
        """As a power cut or the kernel would."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()

    def stop(self) -> int:
        """As a service manager would; gives the exit code."""
        (process,) = self.running
        process.terminate()
        self.running.clear()
        return process.wait(timeout=60)

    @property
    def events(self) -> list[dict[str, object]]:
        """The ledger, which must verify; the gate must not be writing it."""
        path = self.site.parent / "gate" / "ledger.jsonl"
        problem = verify(path).problem
        assert problem is None, problem
        return [dict(line.event) for line in read(path)]

    def wait_for(self, words: str, timeout_s: float = 60.0) -> None:
        """Until the gate's log says something."""
        until = time.monotonic() + timeout_s
        while words not in self.log:
            assert time.monotonic() < until, self.log
            time.sleep(0.05)


@contextmanager
def gate_process(folder: Path, center: Center, more: str = "") -> Iterator[Process]:
    """A gate, started; killed at the end."""
    site = write_site(folder, center, more)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = Process(site, listener)
        process.start()
        try:
            yield process
        finally:
            process.kill()
