"""A site in a rehearsal: a phantom of its own, and none of its own images."""

from pathlib import Path

import numpy as np
import pytest

from clients.data.site import SiteData
from clients.rehearsal import FOLDER, on_phantom
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.study import REHEARSAL, Study
from tests.tiny import choosing, tiny


def site(root: Path, name: str = "east") -> SiteSettings:
    """A site whose data are nowhere, with a reader that is nobody's."""
    return SiteSettings(
        name=name,
        role="target",
        data=DataSpec(folder="nowhere", reader="nowhere.at_all:reader"),
        data_root=root / "none",
        folder=root / "site",
        cache=root / "none" / "cache",
    )


def opened(settings: SiteSettings, study: Study) -> SiteData:
    side, classes = study.model.image_size, study.classes
    return SiteData.open(settings, side=side, classes=classes, split=study.split)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.rehearsal.PATIENTS", 12)


def test_everything_lies_in_the_studys_own_folder(tmp_path: Path) -> None:
    study = tiny(untrained=REHEARSAL)
    own = site(tmp_path)
    settings = on_phantom(own, study)
    data = opened(settings, study)
    assert len(data) == 24
    assert len(np.unique(data.clusters)) == 12
    assert data.has_mask.all()
    assert {path.name for path in tmp_path.iterdir()} == {"site"}
    assert settings.data_folder == (tmp_path / "site" / FOLDER).absolute()
    # What the site allows and where it works stay its own.
    assert (settings.folder, settings.own_parts) == (own.folder, own.own_parts)
    before = {path: path.stat().st_mtime_ns for path in settings.data_folder.rglob("*.png")}
    assert on_phantom(own, study) == settings
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_it_has_the_studys_labels_and_classes(tmp_path: Path) -> None:
    study = choosing(untrained=REHEARSAL, labels=["a", "b", "c"], classes=["bone", "muscle"])
    data = opened(on_phantom(site(tmp_path), study), study)
    found = data.labels(range(len(data)), stage="evaluate")
    assert {label: found.count(label) for label in study.labels} == {"a": 8, "b": 8, "c": 8}
    masks = data.masks(range(len(data)), stage="evaluate")
    assert masks.shape[1] == 2
    assert masks.any(axis=(0, 2, 3)).all()


def test_sites_draw_different_people(tmp_path: Path) -> None:
    study = tiny(untrained=REHEARSAL)
    one, other = (
        opened(on_phantom(site(tmp_path / name, name), study), study).images(range(24))
        for name in ("east", "west")
    )
    assert not (one == other).all(axis=(1, 2)).any()
