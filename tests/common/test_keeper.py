"""Processes are kept at work, and nothing of them is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.keeper import is_up, read_status, stop_keeper, take_lock

KEEPER = """
    import sys
    from pathlib import Path
    from common.keeper import Keeper, Service, spawn
    folder = Path(sys.argv[1])
    place = {{"PATH": "/usr/bin:/bin"}}
    def starts(script):
        return lambda: spawn(["/bin/bash", "-c", script], place, folder / "log")
    guard = 0 if "guarded" in sys.argv else None
    Keeper(folder / "status.json", [{services}], {{"site": "ada"}}, guard).run()
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running = []

    def run(services: str, *more: str) -> "subprocess.Popen[bytes]":
        code = textwrap.dedent(KEEPER).format(services=services)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), *more], stdin=subprocess.PIPE
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def status_where(path: Path, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        told = read_status(path / "status.json")
        if told is not None and condition(told["services"]):
            return told
        assert time.monotonic() < end, told
        time.sleep(0.05)


def both_run(services: dict[str, Any]) -> bool:
    return len(services) == 2 and all(about["pid"] for about in services.values())


TWO = 'Service("a", starts("sleep 1000")), Service("b", starts("sleep 1000"))'


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_gone(*pids: int) -> None:
    end = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < end, [pid for pid in pids if not gone(pid)]
        time.sleep(0.05)


def test_what_ends_starts_again(tmp_path: Path, start: Start) -> None:
    start(TWO)
    first = status_where(tmp_path, both_run)["services"]["a"]["pid"]
    os.kill(first, signal.SIGKILL)
    told = status_where(tmp_path, lambda s: s["a"]["pid"] not in (None, first))["services"]
    assert told["a"]["restarts"] == 1
    assert told["a"]["last_exit"] == -signal.SIGKILL
    assert told["b"]["restarts"] == 0


def test_what_keeps_ending_is_not_started_without_a_pause(tmp_path: Path, start: Start) -> None:
    start('Service("a", starts(f"date +%s.%N >> {folder}/times; exit 3"))')
    times = tmp_path / "times"
    end = time.monotonic() + 60
    while not times.exists() or len(times.read_text().split()) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    at = [float(line) for line in times.read_text().split()]
    assert at[1] - at[0] >= 1.0
    assert at[2] - at[1] >= 2.0


def test_one_takes_another_along(tmp_path: Path, start: Start) -> None:
    start(
        'Service("a", starts("sleep 1000"), takes_along=("b",)), Service("b", starts("sleep 1000"))'
    )
    services = status_where(tmp_path, both_run)["services"]
    a, b = services["a"]["pid"], services["b"]["pid"]
    os.kill(b, signal.SIGKILL)
    told = status_where(tmp_path, lambda s: s["b"]["pid"] not in (None, b))["services"]
    assert told["a"]["pid"] == a
    b = told["b"]["pid"]
    os.kill(a, signal.SIGKILL)
    told = status_where(tmp_path, lambda s: both_run(s) and s["a"]["pid"] != a)["services"]
    assert told["b"]["pid"] != b
    # It started after the one that it goes with, not before.
    assert [Path(f"/proc/{told[name]['pid']}/stat").read_text().split()[21] for name in "ab"] == (
        sorted(Path(f"/proc/{told[name]['pid']}/stat").read_text().split()[21] for name in "ab")
    )


def test_stopping_leaves_nothing(tmp_path: Path, start: Start) -> None:
    """Not what a service started either, in a session of its own or not."""
    process = start(
        f"""Service("a", starts("setsid bash -c 'echo $$ > {tmp_path}/inner; sleep 99' & wait"))"""
    )
    pid = status_where(tmp_path, lambda s: s.get("a", {}).get("pid"))["services"]["a"]["pid"]
    end = time.monotonic() + 60
    while not (tmp_path / "inner").exists() or not (tmp_path / "inner").read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.05)
    inner = int((tmp_path / "inner").read_text())
    assert not gone(inner)
    assert stop_keeper(tmp_path / "status.json")
    assert process.wait(60) == 0
    wait_gone(pid, inner)
    assert not is_up(tmp_path / "status.json")
    assert not stop_keeper(tmp_path / "status.json")


def test_what_does_not_listen_is_killed(tmp_path: Path, start: Start) -> None:
    start("""Service("a", starts("trap '' TERM; while true; do sleep 0.1; done"))""")
    pid = status_where(tmp_path, lambda s: s.get("a", {}).get("pid"))["services"]["a"]["pid"]
    assert stop_keeper(tmp_path / "status.json")
    assert gone(pid)


def test_when_the_keeper_is_killed_all_ends(tmp_path: Path, start: Start) -> None:
    process = start(TWO)
    services = status_where(tmp_path, both_run)["services"]
    process.kill()
    wait_gone(*(about["pid"] for about in services.values()))
    assert read_status(tmp_path / "status.json") is None


def test_a_guarded_keeper_ends_with_whoever_started_it(tmp_path: Path, start: Start) -> None:
    process = start(TWO, "guarded")
    services = status_where(tmp_path, both_run)["services"]
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    wait_gone(*(about["pid"] for about in services.values()))


def test_what_cannot_start_is_told(tmp_path: Path, start: Start) -> None:
    start(
        'Service("a", lambda: spawn(["/no/such"], {}, folder / "log")), '
        'Service("b", starts("sleep 1000"))'
    )
    told = status_where(tmp_path, lambda s: s.get("a", {}).get("trouble") and s["b"]["pid"])
    assert "/no/such" in told["services"]["a"]["trouble"]


def test_there_is_one_keeper(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "status.json")
    with pytest.raises(InputError, match="is up already"):
        take_lock(tmp_path / "status.json")
    os.close(lock)
    os.close(take_lock(tmp_path / "status.json"))
