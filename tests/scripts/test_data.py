from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import InputError
from scripts.data import app
from tests.scripts.conftest import Command
from tests.ultrasound import moving, region, write_dicom

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["id,image,patient,device,label"]
    place = tmp_path / "site"
    place.mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (20, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"i{i}.png")
        lines.append(f"i{i},i{i}.png,p{i // 2},GE {5 + i % 2},benign")
    (place / "index.csv").write_text("\n".join(lines) + "\n")
    return place


def test_check(folder: Path) -> None:
    result = runner.invoke(app, ["check", str(folder)])
    assert result.exit_code == 0, result.output
    assert "12 images, 6 patients" in result.output
    assert "split by patient" in result.output
    assert "site: 0 errors, 0 warnings" in result.output
    assert (folder / "contact_sheet.png").is_file()


def test_check_sees_what_a_study_would(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--where", "device=GE 5,GE 7", "--drop", "id=i0,i2", "--sheet", str(sheet)]
    result = runner.invoke(app, ["check", str(folder), *options])
    assert result.exit_code == 0, result.output
    assert "4 images, 4 patients" in result.output
    assert sheet.is_file()
    assert not (folder / "contact_sheet.png").exists()


def test_check_exits_1_on_errors(folder: Path) -> None:
    (folder / "i3.png").write_bytes(b"no picture")
    result = runner.invoke(app, ["check", str(folder)])
    assert result.exit_code == 1
    assert "row 5: image" in result.output
    assert "site: 1 errors" in result.output


def test_check_of_several_sites(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "index.csv").touch()
    result = runner.invoke(app, ["check", str(tmp_path), "--sheet", str(tmp_path / "s.png")])
    assert result.exit_code == 1
    assert "empty: 1 errors" in result.output
    assert "site: 0 errors" in result.output
    assert (tmp_path / "s-site.png").is_file()


def test_options_that_make_no_sense(folder: Path) -> None:
    options = ["--where", "device", "--column", "=x"]
    result = runner.invoke(app, ["check", str(folder), *options])
    assert isinstance(result.exception, InputError)
    assert result.exception.problems == [
        "--column =x: is not NAME=VALUE",
        "--where device: is not NAME=VALUE",
    ]
    result = runner.invoke(app, ["check", str(folder), "--column", "grup=x"])
    assert isinstance(result.exception, InputError)
    assert "did you mean 'group'?" in result.exception.problems[0]


def test_import(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "pocus"
    (source / "Images").mkdir(parents=True)
    (folder / "i0.png").rename(source / "Images" / "i0.png")
    (source / "frames.csv").write_text("filename,videoname,framenum\ni0.png,v,3\n")
    target = tmp_path / "out"
    result = runner.invoke(app, ["import", "pocus-csv", str(source), str(target)])
    assert result.exit_code == 0, result.output
    assert "1 images (1 without label), 0 with a mask" in result.output
    assert runner.invoke(app, ["check", str(target)]).exit_code == 0
    again = runner.invoke(app, ["import", "pocus-csv", str(source), str(target)])
    assert isinstance(again.exception, InputError)


def test_import_dicom_says_where_the_key_lies(sonofed: Command, tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    write_dicom(source / "a.dcm", moving(2), regions=[region(0, 0, 31, 31)])
    said = sonofed("data", "import", "dicom", source, tmp_path / "site")
    assert said.code == 0, said.err
    assert "2 frames of 1 clips, 1 patients" in said.out
    assert f"{tmp_path / 'pseudonym.key'}; keep it at the site" in said.out
    said = sonofed("data", "import", "dicom", source, tmp_path / "site")
    assert said.code == 2
    assert "not an empty folder" in said.err
