from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.check import check_folder, find_manifests
from common.config.data import DataSpec
from common.errors import InputError

Rows = list[dict[str, str]]
Table = Callable[..., Rows]
WriteSite = Callable[[Rows], Path]
SPEC = DataSpec(folder=".")


def test_a_sound_folder(write_site: WriteSite, table: Table) -> None:
    rows = table(
        12, patient=lambda i: f"p{i // 2}", label=lambda i: "ab"[i % 2], device=lambda i: "X"
    )
    told: list[tuple[int, int]] = []
    report = check_folder(
        write_site(rows), SPEC, progress=lambda done, total: told.append((done, total))
    )
    assert (report.errors, report.warnings) == ([], [])
    assert report.counts == {"images": 12, "patients": 6, "videos": 0, "masks": 12}
    assert report.sizes == ((50, 40), (50, 40))
    assert sum(count for *_, count in report.table()) == 12
    assert {row[:2] for row in report.table()} == {("X", "a"), ("X", "b")}
    assert told[-1] == (12, 12)


def test_every_bad_file_is_an_error(write_site: WriteSite, table: Table) -> None:
    folder = write_site(table(8, patient=lambda i: f"p{i}"))
    (folder / "images/i0.png").write_bytes(b"")
    (folder / "images/i1.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "masks/i2.png")
    (folder / "masks/i3.png").write_bytes(b"no picture")
    report = check_folder(folder, SPEC)
    text = "\n".join(report.errors)
    assert len(report.errors) == 4
    assert "row 2: image 'images/i0.png' is empty (0 bytes)" in text
    assert f"row 3: image {folder / 'images/i1.png'} cannot be read as an image" in text
    assert "is 9 x 9 pixels, its image 50 x 40" in text
    assert f"row 5: mask {folder / 'masks/i3.png'} cannot be read" in text


def test_a_patient_on_two_sides(write_site: WriteSite, table: Table) -> None:
    rows = table(4, patient=lambda i: "p", split=lambda i: "train" if i else "test")
    report = check_folder(write_site(rows), SPEC)
    assert report.split is None
    assert len(report.errors) == 1
    assert "patient 'p' is on two sides of the split" in report.errors[0]


@pytest.fixture
def doubled(write_site: WriteSite, table: Table) -> Callable[..., Path]:
    """A site whose pictures i0 and i5 are one picture, at two brightnesses."""

    def make(**columns: Callable[[int], str]) -> Path:
        folder = write_site(table(6, masks=False, patient=lambda i: f"p{i}", **columns))
        grey = np.asarray(Image.open(folder / "images/i0.png"))
        Image.fromarray(grey // 2 + 40).save(folder / "images/i5.png")
        return folder

    return make


def test_near_duplicates_on_two_given_sides(doubled: Callable[..., Path]) -> None:
    report = check_folder(doubled(split=lambda i: "test" if i == 5 else "train"), SPEC)
    assert len(report.errors) == 1
    assert (
        "'i0' (row 2) and 'i5' (row 7) are near duplicates, in train and in test"
        in (report.errors[0])
    )


def test_near_duplicates_that_a_draw_may_part(doubled: Callable[..., Path]) -> None:
    report = check_folder(doubled(label=lambda i: "benign" if i else "malignant"), SPEC)
    assert report.errors == []
    text = "\n".join(report.warnings)
    assert "may part those 1 pairs; give each a common `group`" in text
    assert "are near duplicates labelled 'malignant' and 'benign'" in text


def test_a_common_group_settles_near_duplicates(doubled: Callable[..., Path]) -> None:
    report = check_folder(doubled(group=lambda i: "g" if i in (0, 5) else ""), SPEC)
    assert (report.errors, [w for w in report.warnings if "duplicate" in w]) == ([], [])


def test_what_is_only_worth_a_look(write_site: WriteSite, table: Table) -> None:
    rows = table(5, video=lambda i: "v", frame=lambda i: ["0", "0", "2", "3", ""][i])
    folder = write_site(rows)
    Image.fromarray(np.full((40, 50), 7, np.uint8)).save(folder / "images/i1.png")
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "images/i2.png")
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(folder / "masks/i3.png")
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(folder / "masks/i4.png")
    report = check_folder(folder, SPEC)
    text = "\n".join(report.warnings)
    assert report.errors == []
    assert report.empty_masks == 1
    for words in (
        "i1.png is one single grey",
        "i2.png is coloured",
        "i3.png covers 100%",
        "frame 0 of video 'v' is also row 2",
        "1 rows name a video but no frame (first: row 6)",
        "no image falls to val or test",
    ):
        assert words in text


def test_manifests_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.csv").write_text("id,image\n")
    assert [path.name for path in find_manifests(tmp_path)] == ["a", "b"]
    assert find_manifests(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(InputError, match="is no folder"):
        find_manifests(tmp_path / "c")


def test_real_near_duplicates_are_found(real_data: Path) -> None:
    names = ["benign_0002", "benign_0319", "benign_0042", "malignant_0051", "benign_0100"]
    spec = DataSpec(folder=".", where={"id": tuple(names)})
    report = check_folder(real_data / "busi", spec)
    told = [w for w in report.warnings if "are near duplicates" in w and "labelled" not in w]
    assert len(told) == 2
    assert any("labelled 'benign' and 'malignant'" in w for w in report.warnings)
