"""`sonofed audit show` and `verify`, on the ledgers of a finished run."""

import shutil
from pathlib import Path

import pytest

from common.ledger_check import read
from scripts.audit.summary import summarise
from tests.scripts.conftest import Command, Finished


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The run's ledgers, to be spoilt."""
    folder = tmp_path / "run"
    for site in ("ada", "bo"):
        (folder / "sites" / site).mkdir(parents=True)
        for path in (finished.folder / "sites" / site).glob("ledger.*"):
            shutil.copy(path, folder / "sites" / site)
    shutil.copy(finished.folder / "receipts.jsonl", folder)
    return folder


def test_a_sound_ledger_verifies(sonofed: Command, copied: Path) -> None:
    site = copied / "sites" / "bo"
    said = sonofed(
        "audit", "verify", site, "--key", site / "ledger.key.pub",
        "--receipts", copied / "receipts.jsonl",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    assert "sound: " in said.out
    assert "byte for byte" in said.out
    assert "key was taken from the ledger itself" not in said.out
    bare = sonofed("audit", "verify", site / "ledger.jsonl")
    assert bare.code == 0
    for words in ("key was taken from the ledger itself", "without the server's receipts"):
        assert words in bare.out


def test_a_spoilt_line_is_named(sonofed: Command, copied: Path) -> None:
    path = copied / "sites" / "bo" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for number, spoilt in (
        (4, [*lines[:3], lines[3].replace(b'"bytes":', b'"bytes":1', 1), *lines[4:]]),
        (3, [*lines[:2], *lines[3:]]),
        (len(lines) - 1, lines[:-2]),
    ):
        path.write_bytes(b"".join(spoilt))
        said = sonofed("audit", "verify", path)
        assert said.code == 1
        assert f"NOT SOUND: {path}, line {number}: " in said.out


def test_a_cut_end_needs_head_file_or_receipts(sonofed: Command, copied: Path) -> None:
    path = copied / "sites" / "bo" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    path.with_name("ledger.jsonl.head").unlink()
    said = sonofed("audit", "verify", path)
    assert said.code == 0
    assert "a cut end cannot be seen" in said.out
    said = sonofed("audit", "verify", path, "--receipts", copied / "receipts.jsonl")
    assert said.code == 1
    assert "which is not in the ledger" in said.out


def test_another_key_and_no_ledger(sonofed: Command, copied: Path, tmp_path: Path) -> None:
    other = copied / "sites" / "ada" / "ledger.key.pub"
    said = sonofed("audit", "verify", copied / "sites" / "bo", "--key", other)
    assert said.code == 1
    assert "another key" in said.out
    assert sonofed("audit", "verify", tmp_path / "none.jsonl").code == 2
    assert sonofed("audit", "show", tmp_path / "none.jsonl").code == 2


def test_show_sums_up_what_left(sonofed: Command, copied: Path) -> None:
    path = copied / "sites" / "bo" / "ledger.jsonl"
    said = sonofed("audit", "show", copied / "sites" / "bo", "--html")
    assert said.code == 0, said.err
    found = summarise(read(path))
    by_hand = sum(e.event["bytes"] for e in read(path) if e.event["kind"] == "reply")
    assert found.left_bytes == by_hand == sum(found.days.values())
    assert "train.mim" in said.out
    assert "examples, loss, loss_first, patients" in said.out
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    for words in ("Nothing was refused.", "train.mim", "Simulation.", "<svg", found.key):
        assert words in page
    for outside in ("http:", "https:", "<script", "src="):
        assert outside not in page.replace("http://www.w3.org/", "")


def test_a_refusal_is_shown_and_escaped(sonofed: Command, tmp_path: Path) -> None:
    from clients.gate.book import Book

    with Book(tmp_path, "west", "gate") as book:
        book.refused("out", 1102, ["<b>Jane</b>: is not in the manifest"])
    said = sonofed("audit", "show", tmp_path, "--html")
    assert "line 1: not let out (code 1102): <b>Jane</b>: is not in the manifest" in said.out
    page = (tmp_path / "ledger.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Jane&lt;/b&gt;" in page
    assert "<b>Jane" not in page
    assert "Simulation." not in page
