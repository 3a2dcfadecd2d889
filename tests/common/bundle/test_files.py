"""A bundle's digests: every byte counts, and what is newer is not guessed at."""

import json
from pathlib import Path

import pytest

from common.bundle import files
from common.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (files.METADATA, files.ENSEMBLE, files.WEIGHTS, files.CARD):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files.write_digests(tmp_path)
    return tmp_path


def test_a_bundle_as_written_verifies(folder: Path) -> None:
    assert set(files.verify(folder)) == {
        files.METADATA, files.ENSEMBLE, files.WEIGHTS, files.CARD,
    }  # fmt: skip


@pytest.mark.parametrize("name", [files.METADATA, files.WEIGHTS, files.CARD])
def test_one_changed_byte_anywhere_is_refused(folder: Path, name: str) -> None:
    before = files.bundle_digest(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=f"{name}: has been changed"):
        files.verify(folder)
    files.write_digests(folder)
    assert files.bundle_digest(folder) != before


def test_all_faults_are_told_together(folder: Path) -> None:
    (folder / files.CARD).unlink()
    (folder / files.WEIGHTS).write_text("other")
    with pytest.raises(InputError) as caught:
        files.verify(folder)
    assert len(caught.value.problems) == 2


def test_an_extra_file_is_not_looked_at(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    files.verify(folder)


def test_a_newer_version_is_refused(folder: Path) -> None:
    listed = json.loads((folder / files.DIGESTS).read_text())
    listed["version"] = files.VERSION + 1
    (folder / files.DIGESTS).write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"bundle version 2 is newer .* update sonofed"):
        files.verify(folder)


def test_a_list_that_leads_out_or_leaves_out_is_refused(folder: Path) -> None:
    listed = json.loads((folder / files.DIGESTS).read_text())
    listed["files"]["../elsewhere"] = "0" * 64
    del listed["files"][files.WEIGHTS]
    (folder / files.DIGESTS).write_text(json.dumps(listed))
    with pytest.raises(InputError) as caught:
        files.verify(folder)
    assert "leads out of the bundle" in str(caught.value)
    assert f"does not name {files.WEIGHTS}" in str(caught.value)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bundle folder"):
        files.verify(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not there; is .* a sonofed bundle"):
        files.verify(tmp_path)
