"""`sonofed sweep`: cells, their order, going on, failing; one real sweep in the slow tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from scripts import sweep as sweep_module
from scripts.sweep import Cell, parse_axis, parse_seeds, plan_sweep, run_cells
from tests.scripts.conftest import Command, write_study


def test_seeds() -> None:
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    assert parse_seeds("3") == [3]
    for wrong in ("", "a", "3-1", "1-", "-1"):
        with pytest.raises(InputError):
            parse_seeds(wrong)


def test_axes() -> None:
    assert parse_axis("contrastive.min_frame_gap=0,15") == (
        "contrastive.min_frame_gap",
        ["0", "15"],
    )
    assert parse_axis('arms=["mim", "lower"],["lower"]') == (
        "arms",
        ['["mim", "lower"]', '["lower"]'],
    )
    assert parse_axis("a={ x = [1,2] },{}")[1] == ["{ x = [1,2] }", "{}"]
    for wrong in ("a", "a=", "a=1,,2", "=1"):
        with pytest.raises(InputError):
            parse_axis(wrong)


def test_cells_run_through_seeds_first(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mini.toml")
    cells, folder = plan_sweep(study, "0-1", ["mim.ratio=0.5,0.6", "adapt.bound=1"], [], None)
    assert [cell.name for cell in cells] == [
        "mim.ratio=0.5_adapt.bound=1_seed=0",
        "mim.ratio=0.5_adapt.bound=1_seed=1",
        "mim.ratio=0.6_adapt.bound=1_seed=0",
        "mim.ratio=0.6_adapt.bound=1_seed=1",
    ]
    assert [(c.study.mim.ratio, c.study.seed) for c in cells] == [
        (0.5, 0),
        (0.5, 1),
        (0.6, 0),
        (0.6, 1),
    ]
    assert folder.parent == Path("runs")
    assert folder.name.startswith("mini-sweep-")
    again = plan_sweep(study, "0-9", [], [], None)[1]
    assert again == folder
    assert plan_sweep(study, "0", [], ["mim.epochs=9"], None)[1] != folder


def test_every_cells_mistakes_are_said_before_anything_runs(
    sonofed: Command, tmp_path: Path
) -> None:
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "sweep"
    said = sonofed("sweep", study, "--grid", "mim.ratio=0.5,2,3", "--out", out)
    assert said.code == 2
    assert "given: 2" in said.err
    assert "given: 3" in said.err
    assert len(said.err.splitlines()) == 2  # once, not once a seed
    assert not out.exists()
    for wrong in (["--grid", "seed=1,2"], ["--grid", "mim.ratio"], ["--seeds", "x"]):
        assert sonofed("sweep", study, *wrong, "--out", out).code == 2


FAKE = """
import json, os, sys
folder, study, fate = sys.argv[1:4]
os.makedirs(folder, exist_ok=True)
open(folder + "/study.json", "w").write(study)
print("training", folder)
assert os.environ["OMP_NUM_THREADS"] == "1"
if fate == "fail":
    print("stopped: no reply")
    sys.exit(1)
open(folder + "/results.json", "w").write("{}")
open(folder + "/report.html", "w").write("page")
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that were begun; their command is a fake one, seed 1 fails the first time."""
    names: list[str] = []

    def start(
        study_file: Path, cell: Cell, data_root: Path | None, folder: Path
    ) -> "subprocess.Popen[bytes]":
        fate = "fail" if cell.study.seed == 1 and cell.name not in names else "finish"
        names.append(cell.name)
        with cell.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", FAKE, str(cell.folder), cell.study.canonical(), fate],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    monkeypatch.setattr(sweep_module, "_start", start)
    monkeypatch.setattr(sweep_module, "POLL_S", 0.01)
    return names


def test_failed_cells_are_listed_and_the_same_command_goes_on(
    sonofed: Command, started: list[str], tmp_path: Path
) -> None:
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "sweep"
    said = sonofed("sweep", study, "--seeds", "0-2", "--jobs", "2", "--out", out)
    assert said.code == 1
    assert sorted(started) == ["seed=0", "seed=1", "seed=2"]
    assert "2 of 3 runs are finished" in said.out
    assert "failed: 1" in said.out
    assert "stopped: no reply" in said.out
    assert str(out / "seed=1.log") in said.out
    said = sonofed("sweep", study, "--seeds", "0-2", "--jobs", "2", "--out", out)
    assert said.code == 0
    assert "2 of 3 runs are finished already" in said.out
    assert started[3:] == ["seed=1"]
    said = sonofed("sweep", study, "--seeds", "0-2", "--out", out)
    assert said.code == 0
    assert len(started) == 4


def test_a_changed_study_is_another_sweep(
    sonofed: Command, started: list[str], tmp_path: Path
) -> None:
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "sweep"
    sonofed("sweep", study, "--seeds", "0", "--out", out)
    said = sonofed("sweep", study, "--seeds", "0", "--out", out, "--set", "mim.epochs=3")
    assert said.code == 2
    assert "mim.epochs is 1 there and 3 here" in said.err


@pytest.mark.slow
def test_a_real_sweep_shares_what_is_equal(sites: Path, tmp_path: Path) -> None:
    study, out = write_study(tmp_path / "mini.toml", '["mim", "lower"]'), tmp_path / "sweep"
    cells, folder = plan_sweep(study, "0-1", ["mim.ratio=0.5,0.6"], [], out)
    folder.mkdir()
    assert run_cells(study, cells, 2, sites, folder) == []
    for cell in cells[2:]:
        log = cell.log.read_text()
        assert "lower/lower: taken from" in log
        assert "mim/mim: taken from" not in log
        numbers = [
            json.loads((c.folder / "results.json").read_text())["arms"]["lower"]["sites"]
            for c in (cell, cells[cells.index(cell) - 2])
        ]
        assert numbers[0] == numbers[1]
