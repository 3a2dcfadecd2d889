"""`sonofed simulate`: what people get wrong, what a run leaves, how it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts.conftest import Command, Finished, Said, write_study

SET = "--set"


def refused(said: Said, out: Path, *words: str) -> None:
    """Exit code 2, every word in the errors, no traceback, nothing of a run left."""
    assert said.code == 2, said
    assert "Traceback" not in said.err + said.out
    assert all(line.startswith("error: ") for line in said.err.splitlines())
    for word in words:
        assert word in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mim.epoch=3"], ["mim.epoch", "did you mean 'epochs'?"]),
        (["mmi.epochs=3"], ["mmi", "did you mean 'mim'?"]),
        (["mim.ratio=1.5"], ["mim.ratio", "1.5"]),
        (["mim.ratio=1.5", "adapt.rounds=0", "sead=1"], ["mim.ratio", "adapt.rounds", "sead"]),
        (["sites.ada.role=target"], ["no site has role"]),
        (["sites.bo.role=source"], ["no site has role"]),
        (["model.image_size=40"], ["40 does not tile"]),
        (["model.image_size=208"], ["does not tile into mask units of 32 px"]),
        (["sites.bo.probe=linear_hd"], ["sites.bo: folder or probe", "no [phantom]"]),
        (["contrastive.crop=[0.9, 0.2]"], ["contrastive.crop"]),
        (["finetune.loss=nowhere.at_all:loss"], ["nowhere.at_all"]),
        (["arms=[\"mim\", \"mim\"]"], ["mim is named twice"]),
        (["mim"], ["write it as key=value"]),
        (["split.test=0"], ["no test image"]),
        (["compute.batch=64"], ["site ada", "site bo", "fewer than a batch of 64"]),
    ],
)  # fmt: skip
def test_wrong_settings(
    sonofed: Command, sites: Path, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "runs" / "mini"
    chosen = [part for override in overrides for part in (SET, override)]
    said = sonofed("simulate", study, "--data-root", sites, "--out", out, *chosen)
    refused(said, out, *words)


def test_missing_study(sonofed: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(sonofed("simulate", tmp_path / "none.toml", "--out", out), out, "no such study")


def test_study_that_is_no_toml(sonofed: Command, tmp_path: Path) -> None:
    study, out = tmp_path / "bad.toml", tmp_path / "run"
    study.write_text("name = ")
    refused(sonofed("simulate", study, "--out", out), out, "bad.toml", "TOML")


def change_csv(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "index.csv"
    path.write_text(change(path.read_text()))


def no_manifest(root: Path) -> None:
    (root / "linear_hd" / "index.csv").unlink()


def two_without_manifest(root: Path) -> None:
    shutil.rmtree(root / "linear_hd")
    shutil.rmtree(root / "linear_pocket")


def empty_manifest(root: Path) -> None:
    change_csv(root / "linear_pocket", lambda _: "")


def duplicate_id(root: Path) -> None:
    def double(text: str) -> str:
        lines = text.splitlines()
        return "\n".join([*lines, lines[1]]) + "\n"

    change_csv(root / "linear_hd", double)


def missing_column(root: Path) -> None:
    change_csv(root / "linear_hd", lambda text: text.replace("id,image,", "id,picture,", 1))


def empty_image(root: Path) -> None:
    next((root / "linear_pocket" / "images").iterdir()).write_bytes(b"")


def unreadable_image(root: Path) -> None:
    next((root / "linear_pocket" / "images").iterdir()).write_bytes(b"no picture")


def mask_of_another_size(root: Path) -> None:
    for name in ("linear_hd", "linear_pocket"):
        Image.new("L", (16, 16)).save(next((root / name / "masks").iterdir()))


def patient_on_two_sides(root: Path) -> None:
    def split(text: str) -> str:
        head, one, two, *rest = text.splitlines()
        cells = [line.split(",") for line in (head, one, two)]
        place = cells[0].index("split")
        cells[1][place], cells[2][place] = "train", "test"
        return "\n".join([*(",".join(c) for c in cells), *rest]) + "\n"

    change_csv(root / "linear_hd", split)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_manifest, ["linear_hd/index.csv"]),
        (two_without_manifest, ["linear_hd/index.csv", "linear_pocket/index.csv"]),
        (empty_manifest, ["linear_pocket/index.csv", "empty"]),
        (duplicate_id, ["row 14", "already that of row 2"]),
        (missing_column, ["'image'", "missing"]),
        (empty_image, ["0 bytes"]),
        (unreadable_image, ["linear_pocket", "row"]),
        (mask_of_another_size, ["linear_hd/index.csv", "linear_pocket/index.csv", "mask"]),
        (patient_on_two_sides, ["two sides", "site 'ada'"]),
    ],
)
def test_wrong_data(
    sonofed: Command,
    own_sites: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    spoil(own_sites)
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "runs" / "mini"
    refused(sonofed("simulate", study, "--data-root", own_sites, "--out", out), out, *words)
    beside = list(out.parent.iterdir()) if out.parent.exists() else []
    assert [path.name for path in beside] in ([], ["cache"])


def test_another_studys_folder(sonofed: Command, finished: Finished) -> None:
    before = (finished.folder / "study.json").read_bytes()
    said = sonofed(
        "simulate", finished.study, "--data-root", finished.root, "--out", finished.folder,
        SET, "seed=3",
    )  # fmt: skip
    assert said.code == 2
    assert "another study (seed is 0 there and 3 here)" in said.err
    assert (finished.folder / "study.json").read_bytes() == before


def test_a_folder_with_other_things(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    study, out = write_study(tmp_path / "mini.toml"), tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    said = sonofed("simulate", study, "--data-root", sites, "--out", out)
    assert said.code == 2
    assert "not empty" in said.err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_begun_run_says_how_to_go_on(
    sonofed: Command, finished: Finished, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(finished.folder / "study.json", begun)
    said = sonofed("simulate", finished.study, "--data-root", finished.root, "--out", begun)
    assert said.code == 2
    assert "--resume" in said.err


def test_finished_runs_are_left_alone(sonofed: Command, finished: Finished) -> None:
    said = sonofed("simulate", finished.study, "--out", finished.folder)
    assert said.code == 0
    assert "already finished" in said.out


def test_resume_on_a_fresh_folder_begins(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "mini.toml", '["lower"]')
    out = tmp_path / "runs" / "mini"
    said = sonofed("simulate", study, "--data-root", sites, "--out", out, "--resume")
    assert said.code == 0, said
    assert f"report: {out / 'report.html'}" in said.out
    assert (out / "results.json").exists()
    assert "lower/lower" in said.out
    assert "100%" in said.out


def test_changed_data_stop_a_resume(
    sonofed: Command, finished: Finished, own_sites: Path, tmp_path: Path
) -> None:
    begun = Path(shutil.copytree(finished.folder, tmp_path / "begun"))
    (begun / "results.json").unlink()
    change_csv(own_sites / "linear_pocket", lambda text: "\n".join(text.splitlines()[:-2]) + "\n")
    said = sonofed("simulate", finished.study, "--data-root", own_sites, "--out", begun, "--resume")
    assert said.code == 2
    assert "site bo" in said.err
    assert "site ada" not in said.err


def test_an_interrupt_says_how_to_go_on(
    sonofed: Command, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.simulate.run_study_here", interrupted)
    said = sonofed("simulate", write_study(tmp_path / "mini.toml"), "--data-root", sites)
    assert said.code == 130
    assert "--resume" in said.out


BROKEN = '''
import torch

def loss(logits, targets):
    """Well while it is tried on 16 px, and then no more."""
    if logits.shape[-1] > 16:
        raise RuntimeError("the moon is in the wrong house")
    return (logits.sigmoid() - targets).abs().mean()
'''


def test_a_stopped_study_says_why(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_part.py").write_text(BROKEN)
    study = write_study(tmp_path / "mini.toml", '["lower"]')
    out = tmp_path / "runs" / "mini"
    said = sonofed(
        "simulate", study, "--data-root", sites, "--out", out,
        SET, "lower.loss=broken_part:loss",
    )  # fmt: skip
    assert said.code == 1
    assert "stopped: lower/lower, round 1" in said.out
    assert "ada says" in said.out
    assert "the moon is in the wrong house" in said.out
    assert "--resume" in said.out
    assert not said.err
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "end"
    assert events[-1]["status"] == "failed"
