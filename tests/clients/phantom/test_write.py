"""The written sites: same settings same bytes, disjoint patients, clear refusals."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from clients.phantom import PROBES, generate
from clients.phantom.write import COLUMNS
from common.errors import InputError
from scripts.phantom import phantom

SMALL: dict[str, Any] = {
    "anatomy": "wrist", "probes": ["linear_hd", "convex"], "patients": 2, "frames": 2, "side": 48,
}  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def rows(site: Path) -> list[dict[str, str]]:
    with (site / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_same_seed_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    for name, jobs in (("one", 1), ("again", 1), ("two", 2)):
        generate(tmp_path / name, **SMALL, seed=5, jobs=jobs)
    first = digests(tmp_path / "one")
    assert first == digests(tmp_path / "again") == digests(tmp_path / "two")
    generate(tmp_path / "other", **SMALL, seed=6)
    other = digests(tmp_path / "other")
    images = [name for name in first if "images" in name]
    assert all(first[name] != other[name] for name in images)


def test_more_frames_sweeps_patients_leave_the_first_ones_alone(tmp_path: Path) -> None:
    generate(tmp_path / "few", **SMALL)
    generate(tmp_path / "many", **{**SMALL, "patients": 3, "frames": 4, "probes": ["convex"]},
             sweeps=2)  # fmt: skip
    few, many = digests(tmp_path / "few" / "convex"), digests(tmp_path / "many" / "convex")
    shared = [name for name in few if name.endswith(".png")]
    assert len(shared) == 8
    assert all(few[name] == many[name] for name in shared)


@pytest.mark.parametrize("anatomy", ["wrist", "breast"])
def test_manifest_names_what_is_there(tmp_path: Path, anatomy: Any) -> None:
    sites = generate(tmp_path / "sites", **{**SMALL, "anatomy": anatomy, "patients": 6})
    patients: list[set[str]] = []
    for probe, site in sites.items():
        found = rows(site)
        assert tuple(found[0]) == COLUMNS
        assert len({row["id"] for row in found}) == len(found) == 12
        patients.append({row["patient"] for row in found})
        assert all(patient.startswith(probe) for patient in patients[-1])
        for row in found:
            assert row["synthetic"] == "phantom v1"
            assert row["device"] == PROBES[probe].device
            image = np.asarray(Image.open(site / row["image"]))
            mask = np.asarray(Image.open(site / row["mask"]))
            assert image.shape == mask.shape == (48, 48)
            assert image.dtype == mask.dtype == np.uint8
            assert set(np.unique(mask)) == {0, 255}
        assert [row["frame"] for row in found[:2]] == ["0", "1"]
    assert len(patients[0] & patients[1]) == 0
    labels = {row["label"] for site in sites.values() for row in rows(site)}
    assert labels == ({"normal", "fracture"} if anatomy == "wrist" else {"benign", "malignant"})


def test_the_same_phantom_is_left_alone_and_another_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sites"
    generate(folder, **SMALL)
    note = folder / "convex" / "index.csv"
    before = note.stat().st_mtime_ns
    generate(folder, **SMALL, jobs=2)
    assert note.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        generate(folder, **SMALL, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        generate(tmp_path / "mine", **SMALL)
    (folder / "phantom.json").write_text("{")
    with pytest.raises(InputError, match="not readable"):
        generate(folder, **SMALL)


def test_a_stopped_run_leaves_nothing_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    folder = tmp_path / "sites"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(folder, **SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []
    # As after a kill, when nothing could be cleaned up.
    (tmp_path / ".sites.partial").mkdir()
    (tmp_path / ".sites.partial" / "rest").write_text("half")
    seen: list[tuple[int, int]] = []
    generate(folder, **SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [path.name for path in tmp_path.iterdir()] == ["sites"]
    assert json.loads((folder / "phantom.json").read_text())["phantom"] == "phantom v1"


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    wrong: Any = {**SMALL, "anatomy": "knee", "probes": ["sonar"], "patients": 0, "side": 8}
    with pytest.raises(InputError) as caught:
        generate(tmp_path / "sites", **wrong)
    assert len(caught.value.problems) == 4
    for word in ("knee", "sonar", "patients", "side"):
        assert word in str(caught.value)
    assert not (tmp_path / "sites").exists()


def test_command_draws_and_names_the_manifests(tmp_path: Path) -> None:
    app = Typer()
    app.command()(phantom)
    folder = tmp_path / "sites"
    result = CliRunner().invoke(app, [
        str(folder), "--anatomy", "breast", "--probe", "convex", "--patients", "1", "--frames", "1",
        "--side", "48",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert str(folder / "convex" / "index.csv") in result.stdout
    assert len(rows(folder / "convex")) == 1
