"""Flower's own simulation of the same two apps: a SuperLink of our own, and Ray below it.

The SuperLink listens on a free loopback port, has its own FLWR_HOME, and dies with this process;
Flower's ready-made connection `local` would leave one behind on a fixed port.
"""

import common.environment  # noqa: F401, I001 - before torch

import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from clients.app import SITES_VARIABLE
from common.config.study import Study
from common.environment import SWITCHES
from common.errors import InputError
from scripts.engines import guard
from scripts.study.bundle import stage
from server.context import StudyStopped

CONNECTION = "simulation"
OPEN_APP, GATED_APP = 'clientapp = "clients.app:app"', 'clientapp = "clients.gated:app"'
START_S, END_S, POLL_S = 120.0, 60.0, 0.2
SHORT_PATH = 20
"""Ray's sockets lie 70 characters below the temporary folder, and a socket's path has 107."""


def run(folder: Path, sites_file: Path, study: Study, jobs: int | None = None) -> None:
    """Run the study in a run folder under Flower's simulation; its log goes to `flower.log`.

    Args:
        folder: With its `study.json`.
        sites_file: Settings of all sites, in the study's order (a node's partition is its place).
        study: For the number of sites and `[compute]`.
        jobs: Sites at work at the same time; the study's unless there is room for fewer only.

    Raises:
        StudyStopped: With the server's reason.
        InputError: If Ray cannot run here as the study wants.
    """
    resources = resources_of(study, torch.cuda.device_count(), jobs or study.compute.jobs)
    temporary = tempfile.gettempdir()
    parent = "/tmp" if len(temporary) > SHORT_PATH and os.path.isdir("/tmp") else temporary
    home = Path(tempfile.mkdtemp(prefix="fed-", dir=parent))
    log = folder.resolve() / "flower.log"
    try:
        app = home / "sonofed"
        stage_gated(app)
        port = free_port()
        (home / "config.toml").write_text(
            f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        config = home / "run.toml"
        path = json.dumps(str(folder.resolve()), ensure_ascii=False)
        config.write_text(f"run = {path}\njobs = {jobs or 0}\n", encoding="utf-8")
        environment = environment_of(home, sites_file.resolve())
        with superlink(home, port, environment, log):
            settings = " ".join(f"{key}={value}" for key, value in resources.items())
            flwr(
                "run", str(app), CONNECTION, "--stream",
                "--run-config", str(config), "--federation-config", settings,
                home=home, environment=environment, log=log,
            )  # fmt: skip
            status, details = outcome(home, environment, log)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if status != "finished:completed":
        reason = details.removeprefix("Simulation failed with exception: ")
        raise StudyStopped(f"{reason} ({status}, see {log})")


def resources_of(study: Study, cards: int, jobs: int) -> dict[str, int | float | str]:
    """What Flower is told about nodes, processors and cards.

    Args:
        study: Its sites and its device.
        cards: Graphics cards of this machine. Sites share them evenly: a card serves
            ceil(jobs / cards) of them.
        jobs: Sites at work at the same time; each gets one of as many "CPUs".

    Raises:
        InputError: If the study names one card by number; Ray numbers them anew for each site.
    """
    device = study.compute.device
    resources: dict[str, int | float | str] = {
        "num-supernodes": len(study.sites),
        "client-resources-num-cpus": 1,
        "init-args-num-cpus": jobs,
        # What a site says of its troubles stays in its own log, not in the server's.
        "init-args-log-to-driver": "false",
    }
    kind, _, number = device.partition(":")
    if kind == "cuda":
        if number not in ("", "0"):
            raise InputError(
                f"compute.device: {device} names a card, but the engine ray gives each site its "
                'own as "cuda"'
            )
        # Rounded down: 1 / .1429 would hold six sites, not seven.
        share = math.floor(10_000 / math.ceil(jobs / max(1, cards))) / 10_000
        resources["client-resources-num-gpus"] = share
    return resources


def stage_gated(into: Path) -> None:
    """Stage the bundle with its sites behind their gates; at a hospital that is another process."""
    stage(into)
    project = into / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace(OPEN_APP, GATED_APP), encoding="utf-8")


def free_port() -> int:
    """A loopback port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(home: Path, sites_file: Path) -> dict[str, str]:
    """The environment of Flower's processes and, through them, of Ray's workers."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    loopback = "127.0.0.1,localhost"
    return {
        **environment,
        **SWITCHES,
        "FLWR_HOME": str(home),
        "RAY_TMPDIR": str(home),
        # On Linux Ray would listen on the machine's outer address; this keeps it on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        SITES_VARIABLE: str(sites_file),
        # The SuperLink starts its helpers by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


@contextmanager
def superlink(home: Path, port: int, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """A SuperLink that answers; afterwards it is gone with all that it started.

    Raises:
        StudyStopped: If it does not start.
    """
    command = [
        executable("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with log.open("ab") as file, guarded(command, home, environment, file) as process:
        since = time.monotonic()
        while not is_healthy(port):
            if process.poll() is not None or time.monotonic() - since > START_S:
                raise StudyStopped(f"Flower's SuperLink did not start; see {log}")
            time.sleep(POLL_S)
        yield


def is_healthy(port: int) -> bool:
    """Whether a SuperLink answers at a loopback port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def flwr(*arguments: str, home: Path, environment: Mapping[str, str], log: Path) -> str:
    """Run one `flwr` command; its words go into the log.

    Returns:
        What it printed.

    Raises:
        StudyStopped: If it fails.
    """
    command = [executable("flwr"), *arguments]
    with guarded(command, home, environment, subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode(errors="replace")
        failed = process.wait() != 0
    with log.open("a", encoding="utf-8") as file:
        file.write(printed)
    if failed:
        raise StudyStopped(f"flwr {arguments[0]} failed; see {log}")
    return printed


def outcome(home: Path, environment: Mapping[str, str], log: Path) -> tuple[str, str]:
    """How the run ended. Flower exits with 0 for a failed run, so its list of runs is asked.

    Returns:
        Status, such as "finished:completed", and details.
    """
    since = time.monotonic()
    while True:
        printed = flwr(
            "list", CONNECTION, "--format", "json", home=home, environment=environment, log=log
        )
        listed: list[dict[str, Any]] = json.loads(printed[printed.index("{") :])["runs"]
        status, details = str(listed[0]["status"]), str(listed[0]["status-details"])
        # The log's stream may end a moment before the status is written.
        if status.startswith("finished") or time.monotonic() - since > END_S:
            return status, details


@contextmanager
def guarded(
    command: list[str], home: Path, environment: Mapping[str, str], out: int | IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command below a guard (guard.py), which ends it when the block or this process ends.

    The guard has a session of its own, so that Ctrl-C reaches this process only.
    """
    process = subprocess.Popen(
        [sys.executable, str(Path(guard.__file__)), *command],
        cwd=home,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def executable(name: str) -> str:
    """Path of a command of this environment."""
    return str(Path(sys.executable).parent / name)
