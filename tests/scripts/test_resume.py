import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import common
from scripts import prepare
from tests.tiny import results_of, tiny, weights_of, worklists_of

ROOT = Path(common.__file__).parents[1]


def kill_and_resume(folder: Path, seed: int, kind: str = "segmenting") -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.scripts.killed", str(folder), str(seed), kind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["kills"]) >= 3, told
    plain, killed = folder / "plain" / "run", folder / "killed" / "run"
    assert weights_of(killed) == weights_of(plain), told
    assert results_of(killed) == results_of(plain), told
    assert worklists_of(killed) == worklists_of(plain), told
    assert (killed / "report.html").exists()
    left = [path for path in killed.rglob("*") if "partial" in path.name]
    assert left == [], told
    for line in (killed / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line)


def test_a_kill_while_the_run_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "study.json.partial").write_text('{"na')
    assert prepare.look_at(tmp_path, tiny(), True) is prepare.Stand.NEW
    prepare.make_folder(tmp_path, tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
    assert prepare.look_at(tmp_path, tiny(), True) is prepare.Stand.BEGUN


@pytest.mark.timeout(900)
def test_kills_at_any_moment_change_no_bit(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seed=1)


@pytest.mark.timeout(900)
def test_kills_change_no_line_of_a_worklist(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seed=1, kind="choosing")
    assert len(worklists_of(tmp_path / "killed" / "run")) == 4  # two arms at two targets


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_more_kills_of_a_choice(seed: int, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seed, kind="choosing")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_more_kills(seed: int, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, seed)
