from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.importers.busbra import read_busbra
from clients.data.importers.layout import import_items
from clients.data.manifest import read_manifest
from common.config.data import DataSpec
from common.errors import InputError

HEADER = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"


@pytest.fixture
def busbra(tmp_path: Path) -> Path:
    source = tmp_path / "BUSBRA"
    lines = [HEADER]
    for name, case in (("0001-l", 1), ("0001-r", 1), ("0002-l", 2)):
        for folder, prefix in (("Images", "bus"), ("Masks", "mask")):
            (source / folder).mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((20, 30), np.uint8)
            Image.fromarray(pixels).save(source / folder / f"{prefix}_{name}.png")
        lines.append(f'bus_{name},{case},Fibroadenoma,benign,2,GE Logiq 5,30,20,left,"[1,2,3,4]"')
    (source / "bus_data.csv").write_text("\n".join(lines) + "\n")
    return source


def test_import(busbra: Path, tmp_path: Path) -> None:
    done = import_items(read_busbra, busbra, tmp_path / "out")
    assert (done.images, done.masks, dict(done.labels)) == (3, 3, {"benign": 3})
    rows = read_manifest(tmp_path / "out", DataSpec(folder="."))
    assert [row.id for row in rows] == ["bus_0001-l", "bus_0001-r", "bus_0002-l"]
    assert [row.patient for row in rows] == ["case_0001", "case_0001", "case_0002"]
    assert rows[0].device == "GE Logiq 5"
    assert (rows[0].extra["birads"], rows[0].extra["side"]) == ("2", "left")
    assert rows[0].mask == tmp_path / "out" / "masks" / "bus_0001-l.png"


def test_faults(busbra: Path, tmp_path: Path) -> None:
    (busbra / "Masks" / "mask_0001-r.png").unlink()
    (busbra / "Images" / "bus_0002-l.png").unlink()
    with pytest.raises(InputError) as caught:
        import_items(read_busbra, busbra, tmp_path / "out")
    first, second = caught.value.problems
    assert "bus_data.csv: row 3: " in first
    assert "mask_0001-r.png is not there" in first
    assert "row 4" in second


def test_columns_and_rows_that_are_missing(busbra: Path, tmp_path: Path) -> None:
    table = busbra / "bus_data.csv"
    whole = table.read_text()
    table.write_text(whole.replace("Case", "Patient"))
    with pytest.raises(InputError, match="the column 'Case' is missing; there are ID, Patient"):
        import_items(read_busbra, busbra, tmp_path / "out")
    table.write_text(whole.rsplit("bus_0002", 1)[0])
    with pytest.raises(InputError, match=r"bus_0002-l.png: bus_data.csv has no row for it"):
        import_items(read_busbra, busbra, tmp_path / "out")
    table.unlink()
    with pytest.raises(InputError, match=r"bus_data.csv: cannot be read"):
        import_items(read_busbra, busbra, tmp_path / "out")
