"""`sonofed simulate --dry-run`: numbers that the run then keeps."""

import json
from pathlib import Path

import pytest

from common import memory
from common.config.load import load_study
from common.estimate import evaluation_traffic, training_traffic
from common.memory import available_memory
from common.plan import make_plan
from scripts.dry_run import moved, site_counts
from scripts.machine import memory_for
from tests.scripts.conftest import Command, Finished, write_study


def test_bytes_and_steps_are_what_the_run_moved_and_did(finished: Finished) -> None:
    study = load_study(finished.study)
    plan = make_plan(study)
    told = [training_traffic(study, t) for t in plan.trainings.values()]
    told.append(evaluation_traffic(study, plan))
    traffic = json.loads((finished.folder / "results.json").read_text())["traffic"]
    assert sum(map(moved, told)) == traffic["total_bytes"]
    for site, ways in traffic["sites"].items():
        for way, count in ways.items():
            assert sum(part.get(site, {}).get(way, 0) for part in told) == count
    counts, absent = site_counts(study, finished.root)
    assert absent == {}
    events = [json.loads(x) for x in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "reply":
            training = plan.trainings[event["training"]]
            assert counts[event["site"]].of(training) == event["examples"]


def test_the_command_writes_nothing(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "mini.toml", '["ensemble_adapted", "lower", "upper"]')
    before = sorted(tmp_path.rglob("*"))
    said = sonofed("simulate", study, "--data-root", sites, "--dry-run", "--out", tmp_path / "run")
    assert said.code == 0, said
    for word in ("ensemble_adapted/adapt", "2,935,625", "jobs never exceed", "MB to move in all"):
        assert word in said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_the_full_size_study_of_what_to_annotate(sonofed: Command, tmp_path: Path) -> None:
    """P2's own setting: 32 images a step of the diffusion model, four of them at once."""
    said = sonofed(
        "simulate", "configs/breast_al_full.toml", "--data-root", tmp_path, "--dry-run",
        "--set", 'arms=["dual"]',
    )  # fmt: skip
    assert said.code == 0, said
    assert "361,869,712" in said.out
    assert "32 (4 at once)" in said.out
    assert "each redrawn in 50 steps" in said.out
    assert "logiq_5: steps are unknown" in said.out
    assert list(tmp_path.iterdir()) == []


def test_data_that_are_not_there(sonofed: Command, tmp_path: Path) -> None:
    said = sonofed(
        "simulate", "configs/wrist_pocus.toml", "--data-root", tmp_path, "--dry-run",
        "--set", 'arms=["mim", "lower"]',
    )  # fmt: skip
    assert said.code == 0, said
    assert "105,275,921" in said.out
    assert "lumify: steps are unknown" in said.out
    assert "1 x 1200" in said.out


def test_the_phantoms_rows_are_known_before_they_are_drawn(tmp_path: Path) -> None:
    study = load_study(Path("configs/demo.toml"))
    counts, absent = site_counts(study, tmp_path)
    assert absent == {}
    assert study.phantom is not None
    images = study.phantom.patients * study.phantom.sweeps * study.phantom.frames
    assert all(0 < c.masked <= c.train < c.pool < images for c in counts.values())


def test_memory_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory() > 10**8
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text("300000000\n")
    usage.write_text("100000000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(usage)),))
    assert available_memory() == 200_000_000
    limit.write_text("max\n")
    assert available_memory() > 200_000_000
    study = load_study(
        Path("configs/demo.toml"), ["compute.device=cuda", "compute.gpu_memory_gb=24"]
    )
    assert memory_for(study) == 24 * 10**9
