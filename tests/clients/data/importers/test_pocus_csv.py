from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.importers.layout import import_items
from clients.data.importers.pocus_csv import read_pocus_csv
from clients.data.manifest import read_manifest
from clients.data.split import clusters
from common.config.data import DataSpec
from common.errors import InputError


@pytest.fixture
def pocus(tmp_path: Path) -> Path:
    source = tmp_path / "pocus"
    lines = ["filename,videoname,framenum"]
    for folder in ("Images", "Masks"):
        (source / folder).mkdir(parents=True)
    for i in range(4):
        for folder in ("Images", "Masks") if i < 3 else ("Images",):
            pixels = np.zeros((20, 30), np.uint8)
            Image.fromarray(pixels).save(source / folder / f"f{i}.png")
        lines.append(f"f{i}{'.png' if i else ''},sweep{i // 2},{7 * i}{'.0' if i == 1 else ''}")
    (source / "frames.csv").write_text("\n".join(lines) + "\n")
    return source


def test_import(pocus: Path, tmp_path: Path) -> None:
    done = import_items(read_pocus_csv, pocus, tmp_path / "out")
    assert (done.images, done.masks) == (4, 3)
    rows = read_manifest(tmp_path / "out", DataSpec(folder="."))
    assert [(row.id, row.video, row.frame) for row in rows] == [
        ("f0", "sweep0", 0),
        ("f1", "sweep0", 7),
        ("f2", "sweep1", 14),
        ("f3", "sweep1", 21),
    ]
    assert rows[3].mask is None
    assert clusters(rows)[0].tolist() == [0, 0, 1, 1]


def test_a_site_without_masks(pocus: Path, tmp_path: Path) -> None:
    for path in (pocus / "Masks").iterdir():
        path.unlink()
    (pocus / "Masks").rmdir()
    assert import_items(read_pocus_csv, pocus, tmp_path / "out").masks == 0
    assert not (tmp_path / "out" / "masks").exists()


def test_faults(pocus: Path, tmp_path: Path) -> None:
    table = pocus / "frames.csv"
    whole = table.read_text()
    table.write_text(whole + "f9.png,sweep1,x\n../f1.png,sweep1,3\nf2.png,sweep1\n")
    with pytest.raises(InputError) as caught:
        import_items(read_pocus_csv, pocus, tmp_path / "out")
    assert [problem.split(": ", 2)[1] for problem in caught.value.problems] == [
        "row 8",
        "row 6",
        "row 6",
        "row 7",
    ]
    table.write_text(whole.replace("framenum", "frame"))
    with pytest.raises(InputError, match="the column 'framenum' is missing"):
        import_items(read_pocus_csv, pocus, tmp_path / "out")
    table.unlink()
    with pytest.raises(InputError, match="exactly one CSV file; there is: none"):
        import_items(read_pocus_csv, pocus, tmp_path / "out")
