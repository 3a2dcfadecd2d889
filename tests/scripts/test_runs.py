"""`sonofed runs` and `sonofed report`."""

import json
import os
import shutil
from pathlib import Path

from scripts.run_folders import find_runs, status_of
from scripts.runs import age
from tests.scripts.conftest import Command, Finished


def test_a_finished_run(finished: Finished) -> None:
    status = status_of(finished.folder)
    assert (status.state, status.name, status.seed, status.place) == ("finished", "mini", 0, "")
    assert len(status.digest) == 8
    assert status.marks == ()


def test_stopped_and_running(finished: Finished, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    (run / "results.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert status_of(run).state == "stopped"  # its last event says that it ended
    cut = max(i for i, line in enumerate(lines) if json.loads(line)["event"] == "round")
    (run / "metrics.jsonl").write_text("\n".join(lines[: cut + 1]) + '\n{"event": "rep')
    status = status_of(run)
    assert status.state == "running?"
    assert status.place == "upper/upper round 1/1"
    for path in run.rglob("*"):
        os.utime(path, (1_000_000, 1_000_000))
    assert status_of(run).state == "stopped"
    study = json.loads((run / "study.json").read_text())
    (run / "study.json").write_text(json.dumps({**study, "untrained": "smoke", "phantom": {}}))
    assert status_of(run).marks == ("synthetic", "untrained")


def test_the_command(sonofed: Command, finished: Finished, tmp_path: Path) -> None:
    said = sonofed("runs", finished.folder.parent)
    assert said.code == 0
    assert "finished" in said.out
    assert "mini" in said.out
    assert sonofed("runs", tmp_path).out.startswith("no runs")
    said = sonofed("runs", tmp_path / "none")
    assert said.code == 2
    assert "no such folder" in said.err


def test_sweeps_hold_runs(tmp_path: Path) -> None:
    for name in ("a/seed=0", "a/seed=1", "b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "study.json").write_text("{}")
    found = find_runs([tmp_path, tmp_path / "a"])
    assert [str(f.relative_to(tmp_path)) for f in found] == ["a/seed=0", "a/seed=1", "b"]


def test_ages() -> None:
    assert [age(s) for s in (5, 90, 7200, 200_000)] == ["5 s", "2 min", "2 h", "2 d"]


def test_reports_again(sonofed: Command, finished: Finished, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    listed = run / "sites" / "sites.json"
    listed.write_text(listed.read_text().replace(str(finished.folder), str(run)))
    pages = [run / "report.html", *(run / "sites" / s / "report.html" for s in ("ada", "bo"))]
    before = [page.read_bytes() for page in pages]
    for page in pages:
        page.unlink()
    said = sonofed("report", run)
    assert said.code == 0, said
    assert [page.read_bytes() for page in pages] == before
    pages[1].unlink()
    sonofed("report", run, "--no-sites")
    assert not pages[1].exists()
    assert sonofed("report", tmp_path).code == 2
