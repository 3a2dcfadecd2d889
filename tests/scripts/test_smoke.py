"""`sonofed simulate --smoke`: the study cut down, what stands in for what is missing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.load import load_study
from common.formats import read_results
from scripts import smoke as smoke_module
from scripts.smoke import smoke_data, smoke_study
from tests.scripts.conftest import Command, write_study

CONFIGS = Path("configs")


def test_every_stage_takes_one_step_and_says_so(
    sonofed: Command, sites: Path, tmp_path: Path
) -> None:
    study = write_study(
        tmp_path / "mini.toml",
        '["ensemble_adapted", "lower", "upper"]',
        '[sites.cy]\nrole = "target"\nfolder = "nowhere"\n',
    )
    out = tmp_path / "runs" / "smoke"
    said = sonofed(
        "simulate", study, "--data-root", sites, "--out", out, "--smoke",
        "--set", "model.weights=gone.npz", "--set", "lower.from_weights=true",
        "--set", "evaluate.overlays=0",
    )  # fmt: skip
    assert said.code == 0, said
    assert "untrained: a smoke run" in said.out
    results = read_results(out / "results.json")
    assert results.study == "mini-smoke"
    assert results.synthetic
    (note,) = [note for note in results.notes if note.startswith("untrained")]
    assert "phantom images in place of the data of cy" in note
    assert "random weights" in note
    assert "Untrained." in (out / "report.html").read_text()
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    replies = [event for event in events if event["event"] == "reply"]
    assert {reply["stage"] for reply in replies} == {
        "mim", "contrastive", "finetune_mim", "finetune_contrastive", "lower", "upper", "adapt",
    }  # fmt: skip
    assert all(reply["rounds"] == 1 and reply["examples"] in (2, 3) for reply in replies)
    with (out / "sites" / "bo" / "smoke" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "train", "val", "test", "test"]
    assert len({row["patient"] for row in rows}) >= 3
    assert (out / "sites" / "bo" / "smoke" / rows[0]["image"]).is_symlink()


def test_the_full_size_study_is_cut_down(tmp_path: Path) -> None:
    smoke = smoke_study(load_study(CONFIGS / "wrist_pocus.toml"), tmp_path)
    small = smoke.study
    assert smoke.stand_ins == ("lumify", "telemed")
    assert small.model.preset == "r50-vit-b16"
    assert small.compute.micro_batch == 2
    assert small.untrained
    for stage in smoke_module.STAGES:
        table = getattr(small, stage)
        assert (table.rounds, table.epochs, table.batch) == (1, 1, 2)
    assert small.finetune_mim.optimizer == "sgd"
    assert small.finetune_mim.momentum == 0.99


def test_the_full_choosing_study_is_cut_down(tmp_path: Path) -> None:
    study = load_study(CONFIGS / "breast_al_full.toml")
    small = smoke_study(study, tmp_path).study
    assert small.arms == study.arms
    assert small.model.image_size == smoke_module.SIDE < study.model.image_size
    assert small.sphere.architecture == "resnet50"
    assert small.select.budgets == (1.0,)
    for words in (
        "128 px in place of 512", "a tiny diffusion model", "no text", "no LPIPS",
        "resnet50 alone of the classifiers", "random weights for resnet50",
    ):  # fmt: skip
        assert words in small.untrained, words


@pytest.mark.slow
def test_the_full_choosing_study_passes_through_every_stage(
    sonofed: Command, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    study = CONFIGS / "breast_al_full.toml"
    said = sonofed("simulate", study, "--data-root", tmp_path, "--out", out, "--smoke")
    assert said.code == 0, said
    results = read_results(out / "results.json")
    assert results.selection is not None
    assert {cell.arm for cell in results.selection.cells} == set(load_study(study).arms)
    (note,) = [note for note in results.notes if note.startswith("untrained")]
    assert "phantom images in place of the data of logiq_e9, logiq_5, logiq_7" in note


def test_optimisers_give_way_where_memory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_module, "available_memory", lambda: 4 * 10**9)
    small = smoke_study(load_study(CONFIGS / "wrist_pocus.toml"), tmp_path).study
    assert (small.mim.optimizer, small.mim.momentum) == ("sgd", 0.0)
    assert "plain SGD" in small.untrained


def test_phantom_masks_get_the_studys_classes(sites: Path, tmp_path: Path) -> None:
    study = load_study(
        write_study(tmp_path / "mini.toml"),
        ['classes=["metaphysis", "epiphysis"]', "sites.ada.folder=a", "sites.bo.folder=b"],
    )
    smoke = smoke_study(study, tmp_path)
    probes = {name: site.probe for name, site in smoke.study.sites.items()}
    assert set(probes.values()) == {"linear_hd", "linear_pocket"}
    specs = smoke_data(smoke, tmp_path, sites, tmp_path / "run")
    with (Path(specs["ada"].folder) / "index.csv").open() as file:
        masks = [row["mask"] for row in csv.DictReader(file)]
    values = {
        int(value)
        for mask in masks
        for value in np.unique(np.asarray(Image.open(Path(specs["ada"].folder) / mask)))
    }
    assert values == {0, 1, 2}
