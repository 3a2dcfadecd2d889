"""`sonofed gate approve`, `approvals`, `revoke`: which code may run, signed."""

import hashlib
import zipfile
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from clients.gate.approvals import approved, files_in
from common.errors import InputError
from tests.scripts.conftest import Command

PROJECT = """
[project]
name = "toy"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "nobody"
[tool.flwr.app.components]
serverapp = "toy.server:app"
clientapp = "toy.client:app"
[tool.flwr.app.config]
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout with a small app."""
    root = tmp_path / "toy"
    (root / "toy").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    for name in ("__init__", "server", "client"):
        (root / "toy" / f"{name}.py").write_text("app = None\n")
    (root / "constraints.txt").write_text("torch==2.9\n")
    return root


def bundle(source: Path, name: str = "toy.fab") -> Path:
    path = source.parent / name
    path.write_bytes(build_fab_from_disk(source))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bundle_is_shown_built_again_and_approved(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    said = sonofed("gate", "approve", fab, "--source", source, "--folder", folder, "--yes")
    assert said.code == 0, said.err
    assert f"SHA-256 {sha256(fab)}" in said.out
    assert "toy/client.py" in said.out
    assert "builds the same bundle, byte for byte" in said.out
    assert approved(folder) == {sha256(fab)}
    listed = sonofed("gate", "approvals", "--folder", folder)
    assert sha256(fab) in listed.out
    assert hashlib.sha256(b"torch==2.9\n").hexdigest()[:12] in listed.out
    again = sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    assert "it is approved already" in again.out


def test_the_next_bundle_is_held_against_the_last(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gate"
    sonofed("gate", "approve", bundle(source), "--folder", folder, "--yes")
    (source / "toy" / "client.py").write_text("app = None\nsend(pixels)\n")
    (source / "toy" / "extra.py").write_text("")
    fab = bundle(source, "next.fab")
    said = sonofed("gate", "approve", fab, "--folder", folder, "--diff", "--yes")
    assert "changed toy/client.py" in said.out
    assert "+send(pixels)" in said.out
    assert "new     toy/extra.py" in said.out
    assert len(approved(folder)) == 2


def test_a_source_that_builds_another_bundle_approves_nothing(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    (source / "toy" / "client.py").write_text("app = 1\n")
    said = sonofed("gate", "approve", fab, "--source", source, "--folder", folder, "--yes")
    assert said.code == 2
    assert "builds another bundle" in said.err
    assert approved(folder) == frozenset()
    said = sonofed("gate", "approve", fab, "--source", tmp_path, "--folder", folder, "--yes")
    assert said.code == 2
    assert "no bundle can be built there" in said.err


def test_without_a_yes_nothing_is_approved(
    sonofed: Command, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("n\n"))
    said = sonofed("gate", "approve", bundle(source), "--folder", tmp_path / "gate")
    assert said.code != 0
    assert approved(tmp_path / "gate") == frozenset()


def test_what_was_approved_can_be_revoked_and_approved_again(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    said = sonofed("gate", "revoke", sha256(fab)[:10], "--folder", folder, "--note", "a bug")
    assert (said.code, approved(folder)) == (0, frozenset())
    said = sonofed("gate", "revoke", sha256(fab)[:10], "--folder", folder)
    assert said.code == 2
    assert "no approved bundle(s) begin so" in said.err
    sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    assert approved(folder) == {sha256(fab)}


def test_approvals_that_somebody_changed_approve_nothing(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    path = folder / "approvals.jsonl"
    path.write_bytes(path.read_bytes().replace(sha256(fab).encode(), b"ab" * 32))
    with pytest.raises(InputError, match="not to be trusted"):
        approved(folder)
    assert sonofed("gate", "approvals", "--folder", folder).code == 2


def _zip(**files: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def test_what_is_no_bundle_is_refused(sonofed: Command, tmp_path: Path) -> None:
    assert files_in(_zip(a__b=b"x"), "x") == {"a/b": b"x"}
    with pytest.raises(InputError, match="leads outside"):
        files_in(_zip(**{"..__b": b"x"}), "x")
    with pytest.raises(InputError, match="leads outside"):
        files_in(_zip(__etc=b"x"), "x")
    with pytest.raises(InputError, match="is no bundle"):
        files_in(b"no zip", "x")
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    with pytest.raises(InputError, match="a file twice"):
        files_in(buffer.getvalue(), "x")
    said = sonofed("gate", "approve", tmp_path / "none.fab", "--folder", tmp_path / "gate")
    assert said.code == 2
    assert "cannot be read" in said.err
