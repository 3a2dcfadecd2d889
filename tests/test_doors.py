"""No way out: no connection beyond this machine, and a server that opens its own files only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import common
from common.environment import SWITCHES

ROOT = Path(common.__file__).parents[1]
DOORS = ROOT / "tests" / "doors"
STUDY = """
name = "doors"
arms = ["ensemble", "lower"]
sites.north = { role = "source", probe = "linear_hd" }
sites.east = { role = "target", probe = "linear_pocket" }
sites.west = { role = "target", probe = "convex" }
phantom = { patients = 4, frames = 2, side = 64 }
split = { val = 0.25, test = 0.25 }
mim.epochs = 1
contrastive = { epochs = 1, min_frame_gap = 2 }
finetune.epochs = 1
evaluate = { bootstrap = 100 }
compute = { batch = 2, jobs = 2 }
[model]
preset = "tiny"
image_size = 32
options = { hidden = 48, blocks = 1, mlp = 96, decoder = [16, 8, 8, 8], head_channels = 32 }
"""


def python(
    *arguments: str | Path, log: Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Python with the watch on connections, in it and in every Python process below it."""
    kept = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=log.parent,
        env={
            **kept,
            "PYTHONPATH": f"{DOORS}{os.pathsep}{ROOT}",
            "DOORS_LOG": str(log),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_study_opens_no_connection_and_its_server_no_foreign_file(tmp_path: Path) -> None:
    """The server's process is watched for files; server and sites for connections."""
    study, log = tmp_path / "doors.toml", tmp_path / "log"
    study.write_text(STUDY, encoding="utf-8")
    done = python(DOORS / "run.py", "simulate", study, "--out", tmp_path / "runs" / "x", log=log)
    assert not log.exists(), log.read_text()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "x" / "report.html").exists()


OUTSIDE = """
import multiprocessing, socket, sys, urllib.request

def call():
    for attempt in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.getaddrinfo("telemetry.flower.ai", 443),
        lambda: urllib.request.urlopen("http://192.0.2.1/", timeout=1),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53)),
    ):
        try:
            attempt()
        except (PermissionError, urllib.error.URLError):
            continue
        sys.exit(3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    sys.exit(4)

if __name__ == "__main__":
    worker = multiprocessing.get_context("forkserver").Process(target=call)
    worker.start()
    worker.join()
    assert worker.exitcode == 4, worker.exitcode
    call()
"""


def test_the_watch_on_connections_watches(tmp_path: Path) -> None:
    script, log = tmp_path / "outside.py", tmp_path / "log"
    script.write_text(OUTSIDE, encoding="utf-8")
    done = python(script, log=log)
    assert done.returncode == 4, done.stderr
    # Four attempts, in a worker and in the process itself.
    lines = log.read_text().splitlines()
    assert len(lines) == 8, lines
    assert sum("telemetry.flower.ai" in line for line in lines) == 2


FILES = """
import os, sys
from pathlib import Path
from doors_run import Watch

run, log = Path(sys.argv[1]), Path(sys.argv[2])
watch = Watch(log)
sys.addaudithook(watch)
watch.run = run
for name in ("study.json", "state/a.json", "sites/sites.json"):
    open(run / name).close()
for path in (run / "sites/east/epochs.jsonl", run / "sites", "/etc/hostname", run / "../scan.png"):
    try:
        os.listdir(path) if Path(path) == run / "sites" else open(path)
    except PermissionError:
        continue
    sys.exit(f"{path} was opened")
"""


def test_the_watch_on_files_watches(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    for name in ("study.json", "state/a.json", "sites/sites.json", "sites/east/epochs.jsonl"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    (tmp_path / "scan.png").write_bytes(b"")
    script = tmp_path / "files.py"
    script.write_text(FILES, encoding="utf-8")
    (tmp_path / "doors_run.py").symlink_to(DOORS / "run.py")
    done = python(script, run, log, log=log)
    assert done.returncode == 0, done.stderr
    assert len(log.read_text().splitlines()) == 4


FIRST_IMPORT = """
import importlib, json, os, sys

class Stop(BaseException):
    pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"flwr", "ray", "torch", "timm", "huggingface_hub", "typer"}:
            print(json.dumps([name, dict(os.environ)]))
            raise Stop

sys.meta_path.insert(0, Finder())
try:
    importlib.import_module(sys.argv[1])
except Stop:
    sys.exit(0)
sys.exit(1)
"""


@pytest.mark.parametrize(
    "module",
    [
        "scripts.cli",
        "server.app",
        "clients.app",
        "clients.gated",
        "scripts.engines.inprocess",
        "scripts.engines.ray",
    ],
)
def test_every_switch_is_off_before_anything_could_look_outside(
    module: str, tmp_path: Path
) -> None:
    """Flower reads its switch for telemetry when it is imported, and only then."""
    done = python("-c", FIRST_IMPORT, module, log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
    _, environment = json.loads(done.stdout.splitlines()[-1])
    assert {name: environment.get(name) for name in SWITCHES} == SWITCHES


def test_flowers_own_names_for_its_switches_are_still_these() -> None:
    from flwr.common.constant import FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION
    from flwr.supercore import telemetry
    from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK

    assert FLWR_DISABLE_UPDATE_CHECK in SWITCHES
    assert FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION in SWITCHES
    assert telemetry.FLWR_TELEMETRY_ENABLED == SWITCHES["FLWR_TELEMETRY_ENABLED"] == "0"
