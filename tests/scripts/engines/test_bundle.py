"""What Flower would send to every hospital: code and templates, whatever lies beside them."""

import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

import common
from scripts.study.bundle import stage

ROOT = Path(common.__file__).parents[1]
PACKAGES = ("common", "clients", "server")
TEMPLATES = tuple(
    f"{side}/templates/{name}.html.md"
    for side in ("clients", "server")
    for name in ("report", "selection")
)
STRAYS = (
    "site.toml",
    "cohort.json",
    "notes.md",
    "clients/site.toml",
    "clients/data/patients.jsonl",
    "clients/data/index.csv",
    "clients/templates/jane_doe.md",
    "server/cohort.json",
    "server/templates/policy.yaml",
    "common/scan.png",
    "runs/demo-1/study.json",
    "data/busi/index.json",
    "scripts/own.py",
    "tests/own.py",
)


def names(fab: bytes) -> set[str]:
    with zipfile.ZipFile(BytesIO(fab)) as bundle:
        return set(bundle.namelist())


def code() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project, with what people leave lying about in it."""
    project = tmp_path / "sonofed"
    project.mkdir()
    shutil.copy(ROOT / "pyproject.toml", project)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for stray in STRAYS:
        (project / stray).parent.mkdir(parents=True, exist_ok=True)
        (project / stray).write_text("patient = 'Jane Doe'\n", encoding="utf-8")
    return project


def test_strays_stay_at_home(project: Path) -> None:
    inside = names(build_fab_from_disk(project))
    assert inside == {*code(), *TEMPLATES, "pyproject.toml", ".info/CONTENT"}
    assert not inside & set(STRAYS)


def test_the_simulation_bundles_the_same(tmp_path: Path) -> None:
    app = tmp_path / "sonofed"
    stage(app)
    assert names(build_fab_from_disk(app)) == {
        *code(), *TEMPLATES, "pyproject.toml", ".info/CONTENT",
    }  # fmt: skip
