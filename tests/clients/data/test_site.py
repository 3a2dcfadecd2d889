import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.preprocess import square_image
from clients.data.site import MaskDenied, SiteData
from clients.settings import SiteSettings
from common.config.data import SplitConfig
from common.errors import InputError

Rows = list[dict[str, str]]
Table = Callable[..., Rows]
WriteSite = Callable[[Rows], Path]
MakeSettings = Callable[..., SiteSettings]

_listeners: list[list[str]] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listeners:
        for heard in _listeners:
            heard.append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Names of all files that this process opens meanwhile, as Python's own auditing sees them."""
    heard: list[str] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners.remove(heard)


def masks_in(names: list[str]) -> list[str]:
    return [name for name in names if f"{os.sep}masks{os.sep}" in name]


def pictures_in(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".png")]


def open_site(settings: SiteSettings, **options: object) -> SiteData:
    given: dict[str, object] = {"side": 32, "split": SplitConfig(), **options}
    return SiteData.open(settings, **given)  # type: ignore[arg-type]


def test_images_come_from_the_cache(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    folder = write_site(table(6))
    site = open_site(make_settings())
    got = site.images([4, 1])
    assert got.shape == (2, 32, 32)
    assert got.dtype == np.uint8
    plain = np.asarray(Image.open(folder / "images/i4.png"))
    assert (got[0] == square_image(plain, 32)).all()
    with opened() as names:
        site.images(np.arange(6))
        again = open_site(make_settings())
        assert (again.images([4, 1]) == got).all()
    assert pictures_in(names) == []


def test_a_changed_file_is_decoded_again(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    folder = write_site(table(3))
    before = open_site(make_settings()).images([0, 1, 2])
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(folder / "images/i1.png")
    after = open_site(make_settings()).images([0, 1, 2])
    assert not after[1].any()
    assert (after[[0, 2]] == before[[0, 2]]).all()


def test_what_is_known_of_the_images(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    rows = table(
        8,
        patient=lambda i: f"p{i // 2}",
        video=lambda i: f"v{i // 4}" if i < 6 else "",
        frame=lambda i: str(10 * i) if i != 1 else "",
        synthetic=lambda i: "phantom v1",
    )
    rows[3]["mask"] = ""
    write_site(rows)
    site = open_site(make_settings())
    assert site.clusters.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert site.videos.tolist() == [0, -1, 0, 0, 1, 1, -1, -1]
    assert site.frames.tolist() == [0, -1, 20, 30, 40, 50, 60, 70]
    assert site.has_mask.tolist() == [True, True, True, False, True, True, True, True]
    assert site.synthetic
    assert site.split.unit == "patient"
    assert len(site) == 8
    assert site.counts["patients"] == 4
    assert site.counts["masks"] == 7
    assert site.counts["train"] + site.counts["val"] + site.counts["test"] == 8


def test_the_split_is_written_into_the_sites_folder(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    write_site(table(20))
    settings = make_settings()
    site = open_site(settings)
    record = json.loads((settings.folder / "split.json").read_text())
    assert record["unit"] == "image"
    assert record["test"] == [site.rows[i].id for i in site.split.test]


def test_masks(write_site: WriteSite, table: Table, make_settings: MakeSettings) -> None:
    rows = table(4)
    rows[1]["mask"] = ""
    folder = write_site(rows)
    site = open_site(make_settings())
    got = site.masks([3, 0], stage="lower")
    assert got.shape == (2, 1, 32, 32)
    assert got.dtype == np.uint8
    assert set(np.unique(got)) == {0, 1}
    with pytest.raises(InputError) as caught:
        site.masks([0, 1], stage="lower")
    assert caught.value.problems == [f"{folder / 'index.csv'}: row 3: image 'i1' has no mask"]
    with opened() as names:
        assert (open_site(make_settings()).masks([3, 0], stage="lower") == got).all()
    assert pictures_in(names) == []


def test_class_masks(write_site: WriteSite, table: Table, make_settings: MakeSettings) -> None:
    folder = write_site(table(2))
    for i in range(2):
        labels = np.zeros((40, 50), np.uint8)
        labels[:20], labels[20:] = 1 + i, 3
        Image.fromarray(labels).save(folder / f"masks/i{i}.png")
    site = open_site(make_settings(), classes=("a", "b", "c"))
    got = site.masks([0, 1], stage="lower")
    assert got.shape == (2, 3, 32, 32)
    assert got.sum(axis=(2, 3)).astype(bool).tolist() == [[True, False, True], [False, True, True]]
    assert got.sum(axis=1).max() == 1
    with pytest.raises(InputError, match=r"row 2: mask .* holds the value 3; classes go from 1"):
        open_site(make_settings(), classes=("a",)).masks([0], stage="lower")


def test_a_targets_masks_are_opened_for_judging_only(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    write_site(table(5, label=lambda i: "malignant"))
    with opened() as names:
        site = open_site(make_settings("target"))
        site.images(np.arange(5))
        for stage in ("enrol", "mim", "contrastive", "lower", "adapt", "assemble", ""):
            with pytest.raises(MaskDenied, match="site 'north' is a target"):
                site.masks([0], stage=stage)
            with pytest.raises(PermissionError):
                site.labels([0], stage=stage)
    assert masks_in(names) == []
    assert len(pictures_in(names)) >= 5  # the listener does hear
    for row in site.rows:
        assert (row.mask, row.label, dict(row.extra)) == (None, "", {})
    assert "malignant" not in repr(site.rows)
    assert site.has_mask.all()
    for stage in ("upper", "evaluate", "annotate"):
        with opened() as names:
            fresh = open_site(make_settings("target"))
            fresh.masks([1, 2], stage=stage)
            assert fresh.labels([1], stage=stage) == ["malignant"]
        assert bool(masks_in(names)) == (stage == "upper")  # later ones come from the cache


def test_a_source_opens_no_mask_before_it_is_asked(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    write_site(table(3))
    with opened() as names:
        site = open_site(make_settings())
        site.images([0])
    assert masks_in(names) == []
    with opened() as names:
        site.masks([0], stage="lower")
    assert len(set(masks_in(names))) == 3


def test_bad_files_all_at_once(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    folder = write_site(table(6))
    for i in (1, 4):
        (folder / f"images/i{i}.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        open_site(make_settings())
    assert len(caught.value.problems) == 2
    assert caught.value.problems[1].startswith(f"{folder / 'index.csv'}: row 6: image ")
    assert not list((folder.parent / "cache").glob("*.npy"))
    assert not (folder.parent / "run").exists()


def test_a_mask_of_another_size(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    folder = write_site(table(3))
    Image.fromarray(np.zeros((40, 51), np.uint8)).save(folder / "masks/i2.png")
    site = open_site(make_settings())
    with pytest.raises(InputError, match=r"row 4: mask .* is 51 x 40 pixels, its image 50 x 40"):
        site.masks([0], stage="lower")


def test_the_manifests_faults_come_first(
    write_site: WriteSite, table: Table, make_settings: MakeSettings
) -> None:
    folder = write_site(table(3))
    (folder / "images/i0.png").unlink()
    with pytest.raises(InputError, match=r"row 2: image 'images/i0.png' is not there"):
        open_site(make_settings())


def test_an_own_reader(
    write_site: WriteSite,
    table: Table,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_site([])
    lines = ["id,image,frame"]
    np.save(folder / "sweep.npy", np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((1, 9, 9)))
    lines += [f"f{i},sweep.npy,{i}" for i in range(3)]
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "sweep_reader.py").write_text(
        "import numpy\n"
        "def read(path, frame):\n"
        "    return numpy.load(path)[frame].astype(numpy.uint8) * numpy.uint8(9)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    site = open_site(make_settings(reader="sweep_reader:read"), side=16)
    assert site.images([0, 1, 2]).max(axis=(1, 2)).tolist() == [0, 9, 18]


@pytest.mark.parametrize(
    ("name", "spec", "unit"),
    [
        (
            "busi",
            {
                "columns": {"group": "split_hint"},
                "where": {"id": ["benign_000*", "malignant_000*"]},
            },
            "group",
        ),
        ("busbra", {"where": {"device": "GE Logiq 5*", "id": "bus_036*"}}, "patient"),
        ("busbra", {"where": {"device": "GE Logiq 7*", "id": "bus_001*"}}, "patient"),
        ("pocus_lung", {"where": {"video": "Reg_Avi_Video_00?"}}, "patient"),
    ],
)
def test_real_ultrasound(
    real_data: Path, tmp_path: Path, name: str, spec: dict[str, object], unit: str
) -> None:
    settings = SiteSettings.model_validate(
        {
            "name": name,
            "role": "target",
            "data": {"folder": name, **spec},
            "data_root": real_data,
            "folder": tmp_path / "run",
            "cache": tmp_path / "cache",
        }
    )
    site = open_site(settings, side=64)
    assert site.split.unit == unit
    images = site.images(np.arange(len(site)))
    assert 5 < images.mean() < 200
    if site.has_mask.all():
        masks = site.masks(np.arange(len(site)), stage="evaluate")
        assert 0.005 < masks.mean() < 0.5
        # Lesions are darker than what surrounds them: masks lie where the images are.
        inside = images[masks[:, 0] == 1].mean()
        assert inside < images[(masks[:, 0] == 0) & (images > 0)].mean()
    else:
        assert (np.bincount(site.videos) > 5).all()
        assert (site.frames >= 0).all()
