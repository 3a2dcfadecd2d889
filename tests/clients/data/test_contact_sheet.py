from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from clients.data.check import check_folder
from clients.data.contact_sheet import OUTLINES, contact_sheet
from clients.data.readers import read_pillow
from common.config.data import DataSpec

Rows = list[dict[str, str]]


def test_sheet_shows_images_and_outlines(
    write_site: Callable[[Rows], Path], table: Callable[..., Rows], tmp_path: Path
) -> None:
    folder = write_site(table(11, label=lambda i: "ab"[i % 2], synthetic=lambda i: "phantom v1"))
    (folder / "images/i3.png").write_bytes(b"no picture")
    report = check_folder(folder, DataSpec(folder="."))
    path = tmp_path / "sheet.png"
    assert contact_sheet(report, read_pillow, path) == 11
    pixels = np.asarray(Image.open(path))
    assert (pixels == np.array(OUTLINES[0])).all(axis=2).sum() > 100
    assert list(tmp_path.glob(".*")) == []
    assert contact_sheet(report, read_pillow, path, limit=5) == 5


def test_classes_have_their_own_colours(
    write_site: Callable[[Rows], Path], table: Callable[..., Rows], tmp_path: Path
) -> None:
    folder = write_site(table(1))
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 5:20], labels[25:35, 25:45] = 1, 2
    Image.fromarray(labels).save(folder / "masks/i0.png")
    report = check_folder(folder, DataSpec(folder="."), classes=2)
    contact_sheet(report, read_pillow, tmp_path / "sheet.png", classes=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    for colour in OUTLINES[:2]:
        assert (pixels == np.array(colour)).all(axis=2).any()
