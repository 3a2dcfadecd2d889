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
