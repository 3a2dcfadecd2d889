from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.importers.busi import read_busi
from clients.data.importers.layout import import_items
from clients.data.manifest import read_manifest
from clients.data.readers import read_pillow
from common.config.data import DataSpec
from common.errors import InputError


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    source = tmp_path / "Dataset_BUSI_with_GT"
    for label, count in (("benign", 3), ("malignant", 2), ("normal", 1)):
        (source / label).mkdir(parents=True)
        for i in range(1, count + 1):
            grey = rng.integers(0, 256, (30, 40), dtype=np.uint8)
            mask = np.zeros((30, 40), bool)
            mask[5:10, 5 : 5 + 5 * i] = label != "normal"
            rgb = np.repeat(grey[..., None], 3, axis=2)
            Image.fromarray(rgb).save(source / label / f"{label} ({i}).png")
            Image.fromarray(mask).save(source / label / f"{label} ({i})_mask.png")
    second = np.zeros((30, 40), bool)
    second[20:25, 20:30] = True
    Image.fromarray(second).save(source / "benign" / "benign (2)_mask_1.png")
    return source


def test_import(busi: Path, tmp_path: Path) -> None:
    target = tmp_path / "data" / "busi"
    target.parent.mkdir()
    done = import_items(read_busi, busi, target)
    assert (done.images, done.masks, done.merged, done.grouped) == (6, 6, 1, 0)
    assert done.labels == {"benign": 3, "malignant": 2, "normal": 1}
    rows = {row.id: row for row in read_manifest(target, DataSpec(folder="."))}
    assert set(rows) >= {"benign_0001", "malignant_0002", "normal_0001"}
    merged = rows["benign_0002"].mask
    assert merged is not None
    assert int((read_pillow(merged) > 127).sum()) == 5 * 10 + 5 * 10
    assert rows["normal_0001"].label == "normal"
    assert [path.name for path in target.parent.iterdir()] == ["busi"]


def test_the_folder_above_will_do(busi: Path, tmp_path: Path) -> None:
    assert import_items(read_busi, busi.parent, tmp_path / "out").images == 6


def test_links(busi: Path, tmp_path: Path) -> None:
    import_items(read_busi, busi, tmp_path / "out", link=True)
    linked = tmp_path / "out" / "images" / "benign_0001.png"
    assert linked.samefile(busi / "benign" / "benign (1).png")


def test_near_duplicates_become_a_group(busi: Path, tmp_path: Path) -> None:
    for name in ("benign (3).png", "../malignant/malignant (2).png"):
        with Image.open(busi / "benign" / "benign (1).png") as picture:
            picture.point(lambda grey: grey // 2 + 30).save(busi / "benign" / name)
    done = import_items(read_busi, busi, tmp_path / "out")
    assert done.grouped == 3
    rows = {row.id: row for row in read_manifest(tmp_path / "out", DataSpec(folder="."))}
    groups = {rows[name].group for name in ("benign_0001", "benign_0003", "malignant_0002")}
    assert groups == {"dupgrp_benign_0001"}
    assert rows["benign_0002"].group == ""
    assert rows["malignant_0002"].extra["note"] == "near_duplicate_with_other_label"


def test_all_faults_at_once_and_nothing_written(busi: Path, tmp_path: Path) -> None:
    (busi / "benign" / "benign (1)_mask.png").unlink()
    (busi / "malignant" / "malignant (1).png").unlink()
    (busi / "malignant" / "malignant (2).png").write_bytes(b"")
    (busi / "benign" / "readme.txt").write_text("hello")
    Image.new("L", (9, 9)).save(busi / "benign" / "benign (3)_mask.png")
    with pytest.raises(InputError) as caught:
        import_items(read_busi, busi, tmp_path / "out")
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "benign (1).png: has no mask 'benign (1)_mask.png'" in text
    assert "malignant (1)_mask.png: is a mask without its image" in text
    assert "malignant (2).png: is empty (0 bytes)" in text
    assert "readme.txt: is neither" in text
    assert "benign (3)_mask.png: is 9 x 9 pixels, its image 40 x 30" in text
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_targets_that_are_refused(busi: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(InputError) as caught:
        import_items(read_busi, tmp_path / "nowhere", tmp_path / "full")
    assert len(caught.value.problems) == 2
    (tmp_path / "empty").mkdir()
    assert import_items(read_busi, busi, tmp_path / "empty").images == 6
    with pytest.raises(InputError, match="there is no such folder"):
        import_items(read_busi, tmp_path / "full", tmp_path / "other")


def test_a_full_disk_leaves_nothing(
    busi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match="No space left on device"):
        import_items(read_busi, busi, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
