"""An archive comes in without a name: pixels of the regions, pseudonyms, three facts."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.check import check_folder
from clients.data.importers.dicom import import_dicom, pseudonym, read_key
from common.config.data import DataSpec
from common.errors import InputError
from tests.ultrasound import SECRETS, STUDY, moving, region, write_dicom

FRAMES = moving(5)
REGION = region(8, 8, 55, 39)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    source = tmp_path / "archive"
    (source / "deep").mkdir(parents=True)
    write_dicom(source / "one.dcm", FRAMES, regions=[REGION])
    write_dicom(source / "deep" / "1.2.3", FRAMES[:1], regions=[REGION])
    write_dicom(
        source / "other.dcm", FRAMES[:2], regions=[REGION],
        header={"PatientID": "other", "StudyInstanceUID": "1.2.3.4"},
    )  # fmt: skip
    (source / "README.txt").write_text("an export")
    return source


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_frames_and_counts(archive: Path, tmp_path: Path) -> None:
    done = import_dicom(archive, tmp_path / "site", tmp_path / "key", every=2)
    assert (done.frames, done.clips, done.patients) == (5, 3, 2)
    assert (done.unnamed, done.others) == (0, 1)
    rows = rows_of(tmp_path / "site")
    assert sorted(row["frame"] for row in rows) == ["0", "0", "0", "2", "4"]
    for row in rows:
        pixels = np.asarray(Image.open(tmp_path / "site" / row["image"]))
        np.testing.assert_array_equal(pixels, FRAMES[int(row["frame"]), 8:40, 8:56])
        assert row["device"] == "C5-1"
        assert row["spacing_mm"] == "0.2 0.1"
        assert row["frame_time_ms"] == "40"
    assert check_folder(tmp_path / "site", DataSpec(folder=".")).errors == []


def test_no_byte_of_the_header_arrives(archive: Path, tmp_path: Path) -> None:
    import_dicom(archive, tmp_path / "site", tmp_path / "key")
    words = [*SECRETS, "SN-123456", "one.dcm", "deep", "1.2.826"]
    for path in (tmp_path / "site").rglob("*"):
        assert not any(word in path.name for word in words)
        if path.is_file():
            data = path.read_bytes()
            assert not any(word.encode() in data for word in words), path


def test_one_key_one_pseudonym(archive: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        import_dicom(archive, tmp_path / name, tmp_path / "key")
    import_dicom(archive, tmp_path / "c", tmp_path / "another_key")
    first, again, other = (
        {row["patient"] for row in rows_of(tmp_path / name)} for name in ("a", "b", "c")
    )
    assert first == again
    assert not first & other
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    key = read_key(tmp_path / "key")
    assert pseudonym(key, "study", STUDY) in {row["study"] for row in rows_of(tmp_path / "a")}
    # What is joined cannot be cut elsewhere, and the kind is part of it.
    assert pseudonym(key, "patient", "a", "bc") != pseudonym(key, "patient", "ab", "c")
    assert pseudonym(key, "video", "x")[6:] != pseudonym(key, "study", "x")[6:]


def test_a_clip_without_a_patient_belongs_to_its_study(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    write_dicom(source / "a.dcm", FRAMES[:1], regions=[REGION], header={"PatientID": ""})
    done = import_dicom(source, tmp_path / "site", tmp_path / "key")
    assert done.unnamed == 1
    (row,) = rows_of(tmp_path / "site")
    assert row["patient"] == row["study"]


def test_all_or_nothing(archive: Path, tmp_path: Path) -> None:
    write_dicom(archive / "bare.dcm", FRAMES)
    (archive / "text.dcm").write_text("no picture")
    with pytest.raises(InputError) as caught:
        import_dicom(archive, tmp_path / "site", tmp_path / "key")
    assert len(caught.value.problems) == 2
    assert "names no ultrasound region" in str(caught.value)
    assert "is no DICOM file" in str(caught.value)
    assert not (tmp_path / "site").exists()
    assert not list(tmp_path.glob(".site*"))
    (archive / "text.dcm").unlink()
    done = import_dicom(archive, tmp_path / "site", tmp_path / "key", whole=True)
    assert done.frames == 13


def test_refusals(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would lie in the folder"):
        import_dicom(archive, tmp_path / "site", tmp_path / "site" / "key")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no DICOM file"):
        import_dicom(tmp_path / "empty", tmp_path / "site", tmp_path / "key")
    (tmp_path / "short").write_text("ab")
    with pytest.raises(InputError, match="holds 1 bytes"):
        import_dicom(archive, tmp_path / "site", tmp_path / "short")
    with pytest.raises(InputError, match="not an empty folder"):
        import_dicom(archive, archive, tmp_path / "key")
    write_dicom(archive / "a.dcm", FRAMES[:1], regions=[REGION])
    (archive / "b.dcm").write_bytes((archive / "a.dcm").read_bytes())
    with pytest.raises(InputError, match="is the same instance as"):
        import_dicom(archive, tmp_path / "site", tmp_path / "key")
