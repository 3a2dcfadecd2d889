import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import common
from clients.settings import SiteSettings
from clients.site_list import write_sites
from common.errors import InputError
from scripts.engines import guard, ray
from scripts.simulate import Engine, run_study_here
from server.context import StudyStopped
from tests.tiny import results_of, targets, tiny, weights_of


@pytest.mark.parametrize(
    ("jobs", "cards", "share"),
    [
        (1, 1, 1.0), (2, 1, 0.5), (3, 1, 0.3333), (7, 1, 0.1428), (2, 2, 1.0), (3, 2, 0.5),
        (4, 0, 0.25),
    ],
)  # fmt: skip
def test_sites_share_the_cards(jobs: int, cards: int, share: float) -> None:
    resources = ray.resources_of(targets(3, compute={"device": "cuda"}), cards, jobs)
    assert resources["client-resources-num-gpus"] == share
    # Flower starts int(cards / share) sites at the same time: as many as the study says, or more.
    assert int(max(1, cards) / share) >= jobs
    assert resources["init-args-num-cpus"] == jobs


def test_as_many_nodes_as_sites_and_no_card_unasked() -> None:
    resources = ray.resources_of(targets(3), cards=2, jobs=1)
    assert resources["num-supernodes"] == 4
    assert "client-resources-num-gpus" not in resources


def test_a_numbered_card_is_refused() -> None:
    with pytest.raises(InputError, match=r"compute\.device"):
        ray.resources_of(targets(2, compute={"device": "cuda:1"}), cards=2, jobs=1)


def test_the_doors_are_shut_for_flower_and_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    environment = ray.environment_of(tmp_path, tmp_path / "sites.json")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["FLWR_HOME"] == environment["RAY_TMPDIR"] == str(tmp_path)
    assert environment["SONOFED_SITES"] == str(tmp_path / "sites.json")
    assert "127.0.0.1" in environment["NO_PROXY"]
    assert "RAY_ADDRESS" not in environment


def processes_in(folder: Path) -> list[str]:
    """Commands of the processes that name the folder or work in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(folder) in command + place:
            found.append(command)
    return found


def guarded(folder: Path, script: str) -> "subprocess.Popen[bytes]":
    """The guard over a shell script."""
    return subprocess.Popen(
        [sys.executable, guard.__file__, "/bin/sh", "-c", script],
        cwd=folder,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("how", ["closed", "killed", "ended"])
def test_the_guard_leaves_nothing(how: str, tmp_path: Path) -> None:
    """Not even a grandchild with a session of its own whose parent has gone."""
    orphan = "(setsid sh -c 'trap \"\" TERM INT HUP; sleep 60' &)"
    process = guarded(tmp_path, f"{orphan}; {'exit 7' if how == 'ended' else 'sleep 60'}")
    assert process.stdin is not None
    if how == "ended":
        assert process.wait(20) == 7
    else:
        until = time.monotonic() + 20
        while len(processes_in(tmp_path)) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        if how == "closed":
            process.stdin.close()
        else:
            process.terminate()
        process.wait(20)
    assert processes_in(tmp_path) == []


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failed_study_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower itself exits with 0 here."""
    folder, temporary = tmp_path / "runs", Path(f"/tmp/ft{os.getpid()}")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    study = tiny(federation={"deadline_s": 120.0})

    def broken(path: Path, sites: list[SiteSettings]) -> None:
        write_sites(path, sites)
        read = path.read_text()
        assert "convex" in read
        path.write_text(read.replace('"convex"', '"gone"'))

    module = sys.modules[run_study_here.__module__]
    monkeypatch.setattr(module, "write_sites", broken)
    with pytest.raises(StudyStopped, match="its data are not what the study needs"):
        run_study_here(study, Engine.ray, folder, folder / "run", False)
    assert processes_in(temporary) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


KILLED = """
import os, sys
from pathlib import Path
from scripts.simulate import Engine, run_study_here
from common.config.study import Study
folder = Path(sys.argv[1])
study = Study.model_validate_json((folder / "study.json").read_text())
run_study_here(study, Engine.ray, folder, folder / "killed", False)
"""


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_study_leaves_nothing_and_can_go_on(sent: int, tmp_path: Path) -> None:
    study = tiny()
    plain = run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "plain", False)
    (tmp_path / "study.json").write_text(study.canonical())
    temporary = Path(f"/tmp/ft{os.getpid()}-{sent}")
    temporary.mkdir()
    root = str(Path(common.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": root},
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    events = tmp_path / "killed" / "metrics.jsonl"
    until = time.monotonic() + 600
    while not (events.exists() and '"reply"' in events.read_text()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(sent)
    process.wait(30)
    until = time.monotonic() + 20
    while processes_in(temporary) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_in(temporary) == []
    shutil.rmtree(temporary)  # a SIGKILL leaves Flower's folder, and only that
    run = run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "killed", True)
    assert weights_of(run) == weights_of(plain)
    assert results_of(run) == results_of(plain)
