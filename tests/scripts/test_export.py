"""`sonofed export`: the command around the bundle."""

import json
import shutil
from pathlib import Path

from common.bundle import files
from tests.bundles import Carried
from tests.scripts.conftest import Command


def test_export_says_what_it_wrote(carried: Carried, sonofed: Command, tmp_path: Path) -> None:
    said = sonofed("export", carried.run, "--out", tmp_path / "b", "--no-reference")
    assert said.code == 0, said.err
    assert files.REFERENCE not in files.verify(tmp_path / "b")
    digest = files.bundle_digest(tmp_path / "b")
    assert f"ensemble of carried, 2 members, digest {digest}" in said.out
    files.verify(tmp_path / "b")


def test_the_same_run_gives_the_same_weights(
    carried: Carried, sonofed: Command, tmp_path: Path
) -> None:
    sonofed("export", carried.run, "--out", tmp_path / "b")
    again, first = files.verify(tmp_path / "b"), files.verify(carried.bundle)
    for name in (
        files.REFERENCE,
        files.WEIGHTS,
        files.ENSEMBLE,
        files.METADATA,
        files.FEDERATION,
        files.CARD,
    ):
        assert again[name] == first[name], name


def test_smoke_runs_and_full_folders_are_refused(
    carried: Carried, sonofed: Command, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(carried.run, tmp_path / "run"))
    study = json.loads((run / "study.json").read_text())
    (run / "study.json").write_text(json.dumps({**study, "untrained": "a smoke run"}))
    said = sonofed("export", run, "--out", tmp_path / "b")
    assert said.code == 2
    assert "is untrained and makes no bundle" in said.err
    said = sonofed("export", carried.run, "--out", carried.data)
    assert said.code == 2
    assert "not an empty folder" in said.err


def test_a_run_that_chose_images_gives_classes(
    sorting: Carried, sonofed: Command, tmp_path: Path
) -> None:
    said = sonofed("export", sorting.run, "--out", tmp_path / "b", "--no-reference",
                   "--budget", "0.3", "--architecture", "all")  # fmt: skip
    assert said.code == 0, said.err
    assert "random of sorted at 30 %, shufflenet_v2_x0_5, mobilenetv3_small_050" in said.out
    images = sorting.data / "linear_pocket" / "images"
    said = sonofed("predict", tmp_path / "b", images, "--out", tmp_path / "o")
    assert said.code == 0, said.err
    head = (tmp_path / "o" / "predictions.csv").read_text().splitlines()[0]
    assert head.startswith("source,frame,class,p_benign,p_malignant,width,height,confidence,flag")
    said = sonofed("predict", tmp_path / "b", images, "--out", tmp_path / "p", "--maps")
    assert said.code == 2
    assert "it draws no mask" in said.err
