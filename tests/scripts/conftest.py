"""What the commands' tests share: small sites on disk, a study over them, one finished run."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.phantom.write import generate
from scripts.cli import main

PROBES = ("linear_hd", "linear_pocket")

STUDY = """
name = "mini"
arms = {arms}
[sites.ada]
role = "source"
folder = "linear_hd"
[sites.bo]
role = "target"
folder = "linear_pocket"
[split]
val = 0.2
test = 0.2
[model]
preset = "tiny"
image_size = 32
[mim]
epochs = 1
rounds = 2
[finetune]
epochs = 1
[evaluate]
bootstrap = 100
overlays = 1
[compute]
batch = 4
"""


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def write_study(path: Path, arms: str = '["mim", "lower", "upper"]', more: str = "") -> Path:
    """Write the mini study; `more` goes to its end."""
    path.write_text(STUDY.format(arms=arms) + more, encoding="utf-8")
    return path


@pytest.fixture
def sonofed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in this process: its exit code and words."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["sonofed", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two phantom sites of six patients."""
    root = tmp_path_factory.mktemp("data") / "sites"
    generate(root, anatomy="wrist", probes=PROBES, patients=6, frames=2, side=32)
    return root


@pytest.fixture
def own_sites(sites: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(sites, tmp_path / "data"))


@dataclass(frozen=True)
class Finished:
    """A finished run of the mini study."""

    study: Path
    root: Path
    folder: Path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sites: Path) -> Finished:
    """One run of the mini study, made once; nobody may change it."""
    from common.config.load import load_study
    from scripts.simulate import Engine, run_study_here

    place = tmp_path_factory.mktemp("finished")
    study = write_study(place / "mini.toml")
    folder = place / "runs" / "mini"
    run_study_here(load_study(study), Engine.inprocess, sites, folder, resume=False)
    return Finished(study, sites, folder)
