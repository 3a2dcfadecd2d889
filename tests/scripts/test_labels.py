"""`sonofed labels`: out to the readers, back to the site."""

import csv
from pathlib import Path

import pytest

from clients.annotations import annotated, close_labels, read_labels
from clients.settings import SiteSettings
from clients.site_list import read_sites, write_sites
from tests.clients.chosen import choose_all, digest_of, site_of, study_of
from tests.scripts.conftest import Command


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    return site_of(tmp_path)


@pytest.fixture
def run(tmp_path: Path, site: SiteSettings) -> Path:
    """A run that waits at `annotate`; `site` is its target bo, and cy has not selected yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.json").write_text(study_of(labels="file").canonical())
    source = site.model_copy(update={"name": "ada", "role": "source"})
    other = site.model_copy(update={"name": "cy", "folder": tmp_path / "sites" / "cy"})
    write_sites(folder / "sites" / "sites.json", [source, site, other])
    read_sites.cache_clear()
    choose_all(site)
    return folder


def fill(path: Path, **labels: str) -> None:
    """Write labels into a template."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["id"] in labels:
            row |= {"label": labels[row["id"]], "reader": "Dr A", "time": "2026-03-01"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_out_filled_in_and_back(
    sonofed: Command, run: Path, site: SiteSettings, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    said = sonofed("labels", "template", "--run", run, "--site", "bo", "--out", table)
    assert said.code == 0, said.err
    assert "8 images to annotate as one of benign, malignant" in said.out
    fill(table, i02="malignant", i03="benign", i04="benign")
    said = sonofed("labels", "import", table, "--run", run, "--site", "bo")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        "bo: 3 labels taken, 5 lines without a label passed over",
        "  entropy, 20 %: 2 of 2 annotated",
        "  entropy, 50 %: 3 of 6 annotated, 3 missing",
        "  random, 20 %: 0 of 2 annotated, 2 missing",
        "  random, 50 %: 1 of 6 annotated, 5 missing",
        "  all together: 3 of 8 images annotated",
    ]
    assert annotated(site.folder, "entropy", 0.2) == (["i02", "i03"], ["malignant", "benign"])
    again = sonofed("labels", "import", table, "--run", run, "--site", "bo")
    assert "bo: 0 labels taken, 3 known already" in again.out
    assert len(read_labels(site.folder)) == 3
    said = sonofed("labels", "template", "--run", run, "--site", "bo", "--out", table)
    assert said.code == 2
    assert "is there already" in said.err


def test_one_wrong_line_and_nothing_is_taken(
    sonofed: Command, run: Path, site: SiteSettings, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    sonofed("labels", "template", "--run", run, "--site", "bo", "--out", table)
    fill(table, i02="malignant", i03="cyst", i04="abscess")
    said = sonofed("labels", "import", table, "--run", run, "--site", "bo")
    assert said.code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 2
    assert "row 5: the label 'cyst' is none of benign, malignant" in said.err
    assert not (site.folder / "labels.csv").exists()


def test_labels_that_come_too_late(
    sonofed: Command, run: Path, site: SiteSettings, tmp_path: Path
) -> None:
    close_labels(site.folder)
    table = tmp_path / "late.csv"
    line = f"i02,benign,Dr A,2026-03-01,{digest_of(site, 'i02')}"
    table.write_text(f"id,label,reader,time,image_sha256\n{line}\n")
    said = sonofed("labels", "import", table, "--run", run, "--site", "bo")
    assert said.code == 0, said.err
    assert "nothing in this run is trained on them" in said.out
    assert annotated(site.folder, "entropy", 0.2) == ([], [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ada", "'ada' is no target of"),
        ("mars", "there are bo, cy"),
        ("cy", "cy: has selected no image yet"),
    ],
)
def test_no_such_site(sonofed: Command, run: Path, tmp_path: Path, name: str, words: str) -> None:
    out = tmp_path / "t.csv"
    for arguments in (["template", "--out", out], ["import", out]):
        said = sonofed("labels", *arguments, "--run", run, "--site", name)
        assert said.code == 2
        assert words in said.err
    assert not out.exists()


def test_no_such_run(sonofed: Command, tmp_path: Path, run: Path) -> None:
    said = sonofed("labels", "import", tmp_path / "x", "--run", tmp_path, "--site", "bo")
    assert said.code == 2
    assert "study.json" in said.err
    (run / "sites" / "sites.json").unlink()
    said = sonofed("labels", "import", tmp_path / "x", "--run", run, "--site", "bo")
    assert said.code == 2
    assert "has no sites on this machine" in said.err


def test_a_folder_without_a_run_is_said_to_be_one(sonofed: Command, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id\n")
    said = sonofed("labels", "import", tmp_path / "table.csv", "--run", tmp_path, "--site", "bo")
    assert said.code == 2
    assert f"{tmp_path}: no run here (there is no study.json)" in " ".join(said.err.split())
