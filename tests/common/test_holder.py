"""Only the process that holds a lock is taken for it, whatever number it has."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from common import holder
from common.errors import InputError
from common.keeper import lock_of, stop_keeper, take_lock


def signed(folder: Path, **changes: object) -> tuple[int, Path]:
    """A lock that this process holds, and says what it is told to say."""
    status = folder / "status.json"
    lock = take_lock(status)
    path = lock_of(status)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return lock, status


def test_it_is_who_holds_it(tmp_path: Path) -> None:
    lock, status = signed(tmp_path)
    assert holder.holder(lock_of(status)) == os.getpid()
    os.close(lock)


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        lock, status = signed(tmp_path, pid=other.pid)
        assert holder.holder(lock_of(status)) is None
        os.close(lock)
        assert other.poll() is None
        other.kill()


def test_in_a_container_its_number_is_another_process(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        told = {"pid": other.pid, "started": holder.started(other.pid), "namespace": "pid:[1] x"}
        lock, status = signed(tmp_path, **told)
        with pytest.raises(InputError, match="docker compose exec"):
            stop_keeper(status)
        os.close(lock)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("text", ["", "{}", "[]", "12", '{"pid": "x"}'])
def test_a_lock_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    assert holder.holder(tmp_path / "lock") is None
    assert holder.holder(tmp_path / "none") is None


def test_a_process_that_there_is_not() -> None:
    assert holder.started(2**22 + 1) == ""
    assert holder.started(os.getpid()).isdigit()
