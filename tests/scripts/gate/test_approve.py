"""`sonofed gate approve`, `approvals`, `revoke`: which code may run, signed."""

import hashlib
import zipfile
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from clients.gate.approvals import approved, files_in, notes
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


def approve_all(sonofed: Command, folder: Path, *bundles: dict[str, bytes]) -> str:
    """Approve bundles one after the other; what was said of the last."""
    out = ""
    for number, files in enumerate(bundles):
        path = folder.with_name(f"{number}.fab")
        path.write_bytes(_zip(**files))
        said = sonofed("gate", "approve", path, "--folder", folder, "--diff", "--yes")
        assert said.code == 0, said.err
        out = said.out
    return out


def test_no_line_of_a_change_is_left_out(sonofed: Command, tmp_path: Path) -> None:
    old = [f"x{n} = {n}" for n in range(900)]
    new = [f"y{n} = {n}" for n in range(900)]
    new.insert(890, 'os.system("exfiltrate")')
    texts = ["\n".join(lines).encode() for lines in (old, new)]
    out = approve_all(sonofed, tmp_path / "gate", {"app": texts[0]}, {"app": texts[1]})
    shown = [line.strip() for line in out.splitlines()]
    for line in old:
        assert f"-{line}" in shown
    for line in new:
        assert f"+{line}" in shown


def test_new_and_removed_files_are_shown_whole(sonofed: Command, tmp_path: Path) -> None:
    first = {"app": b"import os\n", "old": b"gone = 1\n"}
    out = approve_all(sonofed, tmp_path / "gate", first)
    assert "    +import os\n    +" not in out
    assert "    +import os\n" in out
    assert "    +gone = 1\n" in out
    second = {"app": b"import os\n", "extra": b'os.system("x")\nlast'}
    out = approve_all(sonofed, tmp_path / "gate", first, second)
    assert '    +os.system("x")\n    +last\n    \\ no line feed at its end\n' in out
    assert "    -gone = 1\n" in out
    assert "import os" not in out


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (b"a\n", b"a", "\\ no line feed at its end"),
        (b"a\n", b"a\r\n", r"+a\r"),
        (b"a\x0cb\n", b"a\x0bb\n", r"+a\x0bb"),
        (b"\xff", b"\xfe", "+þ"),
        (b"x\n", "x\u2028evil()\n".encode(), r"+x\u2028evil()"),
        (b"x\n", b"x\x1b[2K\x1b[1A\x1b[2K\n", r"+x\x1b[2K\x1b[1A\x1b[2K"),
        (b"x\n", "x\x9b2J\u202e\u200b\ufeff\n".encode(), r"+x\x9b2J\u202e\u200b\ufeff"),
        (b"x\n", b"[red]x[/y] :smile:\n", "+[red]x[/y] :smile:"),
        (b"x\n", b"\tx\n", r"+\tx"),
    ],
)
def test_what_a_terminal_would_hide_is_shown(
    sonofed: Command, tmp_path: Path, before: bytes, after: bytes, shown: str
) -> None:
    out = approve_all(sonofed, tmp_path / "gate", {"app": before}, {"app": after})
    assert shown in [line.strip() for line in out.splitlines()]
    assert all(letter == "\n" or letter.isprintable() for letter in out)


def test_the_names_of_a_bundles_files_are_not_obeyed(sonofed: Command, tmp_path: Path) -> None:
    name = "a\x1b[2K\rb[/x].py"
    out = approve_all(sonofed, tmp_path / "gate", {name: b"evil"})
    assert r"  a\x1b[2K\rb[/x].py (4 bytes)" in out


def test_a_revocation_that_was_cut_off_does_not_count_as_undone(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    """Who may write in the folder cuts the line and takes the head file: nothing is approved."""
    fab, folder = bundle(source), tmp_path / "gate"
    sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    sonofed("gate", "revoke", sha256(fab)[:10], "--folder", folder)
    path = folder / "approvals.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    (folder / "approvals.jsonl.head").unlink()
    with pytest.raises(InputError, match=r"approvals\.jsonl\.head is gone"):
        approved(folder)
    listed = sonofed("gate", "approvals", "--folder", folder)
    assert listed.code == 0
    assert "note: " in listed.out
    assert "approvals.jsonl.head is gone" in listed.out
    assert sha256(fab) in listed.out
    # Either word mends it, and that it was broken stays told.
    said = sonofed("gate", "revoke", sha256(fab)[:10], "--folder", folder)
    assert (said.code, approved(folder)) == (0, frozenset())
    said = sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    assert "the head file had been taken away" in said.out
    assert approved(folder) == {sha256(fab)}
    listed = sonofed("gate", "approvals", "--folder", folder)
    assert "the head file had been taken away" in listed.out


def test_approving_again_mends_a_missing_head_file(
    sonofed: Command, source: Path, tmp_path: Path
) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    assert notes(folder) == []
    (folder / "approvals.jsonl.head").unlink()
    said = sonofed("gate", "approve", fab, "--folder", folder, "--yes")
    assert "it is approved already" not in said.out
    assert approved(folder) == {sha256(fab)}


def test_a_note_is_not_read_as_markup(sonofed: Command, source: Path, tmp_path: Path) -> None:
    fab, folder = bundle(source), tmp_path / "gate"
    sonofed("gate", "approve", fab, "--folder", folder, "--yes", "--note", "see [/x]\x1b[2J")
    listed = sonofed("gate", "approvals", "--folder", folder)
    assert listed.code == 0
    assert r"see [/x]\x1b[2J" in listed.out


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
