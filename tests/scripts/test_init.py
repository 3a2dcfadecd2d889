"""`sonofed init`: what it writes loads, it asks what nobody said, it overwrites nothing."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.config.load import load_study
from scripts.cli import app
from tests.scripts.conftest import Command


def test_from_options(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "wrist.toml"
    said = sonofed(
        "init", path, "--site", "ada:source:linear_hd", "--site",
        "bo:target:linear_pocket:Linear *", "--classes", "bone, cartilage",
        "--preset", "small", "--data-root", sites,
    )  # fmt: skip
    assert said.code == 0, said
    assert f"sonofed simulate {path}" in said.out
    study = load_study(path)
    assert study.name == "wrist"
    assert study.sources == ("ada",)
    assert study.sites["bo"].where == {"device": "Linear *"}
    assert study.classes == ("bone", "cartilage")
    assert study.model.image_size == 112
    assert "upper" in study.arms
    assert path.read_text().count("#") > 10


def test_the_phantom_needs_no_data(sonofed: Command, tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    assert sonofed("init", path, "--phantom").code == 0
    study = load_study(path)
    assert (len(study.sources), len(study.targets)) == (1, 2)
    assert study.phantom is not None


def test_it_asks(sites: Path, tmp_path: Path) -> None:
    path = tmp_path / "asked.toml"
    answers = ["linear_hd", "", "", "linear_pocket", "bo", "", "n", "", "tiny"]
    result = CliRunner().invoke(
        app, ["init", str(path), "--data-root", str(sites)], input="\n".join(answers) + "\n"
    )
    assert result.exit_code == 0, result.output
    study = load_study(path)
    assert {name: site.role for name, site in study.sites.items()} == {
        "linear_hd": "source",
        "bo": "target",
    }


def test_targets_without_masks_have_no_upper(
    sonofed: Command, own_sites: Path, tmp_path: Path
) -> None:
    index = own_sites / "linear_pocket" / "index.csv"
    head, *rows = index.read_text().splitlines()
    place = head.split(",").index("mask")
    blank = [",".join("" if i == place else c for i, c in enumerate(r.split(","))) for r in rows]
    index.write_text("\n".join([head, *blank]) + "\n")
    path = tmp_path / "new.toml"
    said = sonofed(
        "init", path, "--site", "ada:source:linear_hd", "--site", "bo:target:linear_pocket",
        "--data-root", own_sites,
    )  # fmt: skip
    assert "bo: no masks" in said.out
    assert "upper" not in load_study(path).arms


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--site", "ada:source:linear_hd"], "no site has role"),
        (["--site", "ada:boss:linear_hd"], "role"),
        (["--site", "ada"], "NAME:ROLE:FOLDER"),
        (["--phantom", "--preset", "huge"], "there are tiny"),
        (["--phantom", "--name", "a b"], "name"),
    ],
)
def test_wrong_answers_write_nothing(
    sonofed: Command, tmp_path: Path, arguments: list[str], words: str
) -> None:
    path = tmp_path / "new.toml"
    said = sonofed("init", path, *arguments)
    assert said.code == 2
    assert words in said.err
    assert "/tmp/tmp" not in said.err
    assert not path.exists()


def test_it_overwrites_nothing(sonofed: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    assert sonofed("init", path, "--phantom").code == 2
    assert path.read_text() == "mine"
    assert sonofed("init", tmp_path / "study.txt", "--phantom").code == 2


def test_what_it_writes_runs_dry(sonofed: Command, sites: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    shutil.rmtree(path, ignore_errors=True)
    sonofed("init", path, "--site", "ada:source:linear_hd", "--site", "bo:target:linear_pocket",
            "--data-root", sites)  # fmt: skip
    tomllib.loads(path.read_text())
    said = sonofed("simulate", path, "--data-root", sites, "--dry-run")
    assert said.code == 0, said
    assert "steps are unknown" not in said.out
    assert sys.argv[0] == "sonofed"
