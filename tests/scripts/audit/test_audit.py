"""`sonofed audit show` and `verify`, on the ledgers of a finished run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from clients.gate.book import Book
from common.ledger import Ledger
from common.ledger_check import read
from common.signing import make_key
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


def test_receipts_of_something_else_prove_nothing(
    sonofed: Command, copied: Path, tmp_path: Path
) -> None:
    """Another run's speak of none of these replies; and a ledger made anew is not the site's."""
    site = copied / "sites" / "bo"
    key = make_key(tmp_path / "server.key")
    with Ledger(tmp_path / "other.jsonl", key, {"site": "server"}) as book:
        book.append({"kind": "receipt", "key": "ab" * 32, "site": "cy", "sequence": 3,
                     "head": "0" * 64, "digest": "0" * 64, "bytes": 1})  # fmt: skip
    said = sonofed("audit", "verify", site, "--receipts", tmp_path / "other.jsonl")
    assert said.code == 1
    assert "these receipts speak of none of the" in said.out
    assert "lines are, by themselves" in said.out
    anew = tmp_path / "bo"
    with Book(anew, "bo", "simulation") as ledger:
        ledger.ledger.append({"kind": "reply", "bytes": 1, "digest": "0" * 64})
    said = sonofed("audit", "verify", anew, "--receipts", copied / "receipts.jsonl")
    assert said.code == 1
    assert "a reply of bo from a ledger with another key" in said.out


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
    with Book(tmp_path, "west", "gate") as book:
        book.refused("out", 1102, ["<b>Jane</b>: is not in the manifest"])
    said = sonofed("audit", "show", tmp_path, "--html")
    assert "line 1: not let out (code 1102): <b>Jane</b>: is not in the manifest" in said.out
    page = (tmp_path / "ledger.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Jane&lt;/b&gt;" in page
    assert "<b>Jane" not in page
    assert "Simulation." not in page


EVENT: dict[str, Any] = {
    "study": "wrist", "study_digest": "0" * 64, "message": "train.mim", "training": "mim/mim",
    "step": "", "round": 1,
}  # fmt: skip
REPLY = {**EVENT, "kind": "reply", "tensors": 2, "metrics": {"loss": "0.5"}, "digest": "d" * 64}


@pytest.mark.parametrize("name", ["study", "message", "training", "step"])
@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("[/x]", "[/x]"),
        ("[red]mim[/red]", "[red]mim[/red]"),
        ("a\x1b[2J\x9b\u202eb\u200b\r", r"a\x1b[2J\x9b\u202eb\u200b\r"),
        ("\ud800 $\\frac$", r"\ud800 $\frac$"),
        (":smile:<b>&", ":smile:<b>&"),
    ],
)
def test_foreign_words_are_shown_and_not_obeyed(
    sonofed: Command, tmp_path: Path, name: str, foreign: str, shown: str
) -> None:
    event = {**EVENT, name: foreign}
    with Book(tmp_path, "west", "gate") as book:
        book.ledger.append(
            {**event, "kind": "refused", "way": "in", "code": 1101, "why": [foreign]}
        )
        book.ledger.append(
            {**event, "kind": "instruction", "tensors": 1, "bytes": 9, "digest": "0"}
        )
        book.ledger.append(
            {**REPLY, **event, "bytes": 8, "instruction": 2, "metrics": {foreign: foreign}}
        )
        book.ledger.append({"kind": "undelivered", "instruction": 9, "why": foreign})
    said = sonofed("audit", "show", tmp_path, "--html")
    assert said.code == 0, said.err
    assert f"line 1: not let in (code 1101): {shown}" in said.out
    assert said.out.count(shown) >= 3
    page = (tmp_path / "ledger.html").read_text(encoding="utf-8")
    for left in ("\x1b", "\x9b", "\u202e", "\u200b", "<b>&"):
        assert left not in said.out.replace(shown, "")
        assert left not in page
    assert str(escape(shown)) in page


def test_a_line_that_lacks_what_it_should_say_is_named(sonofed: Command, tmp_path: Path) -> None:
    kinds = ("policy", "instruction", "reply", "error", "refused", "undelivered", "recovered",
             "purged", "checked", "receipt", "nobody's")  # fmt: skip
    with Book(tmp_path, "west", "gate") as book:
        for kind in kinds:
            if kind != "recovered":
                book.ledger.append({"kind": kind})
        book.ledger.append({**REPLY, "bytes": "many", "metrics": [1]})
        book.ledger.append({**REPLY, "bytes": 5, "instruction": 4})
        book.ledger.append({"kind": "refused", "way": "in", "code": 1, "why": [], "message": "x"})
    said = sonofed("audit", "show", tmp_path, "--html")
    assert said.code == 0, said.err
    assert "line 3: says reply, without study, message, training, step, round, bytes" in said.out
    assert "line 11: says reply, without bytes, metrics, instruction" in said.out
    assert "line 13: not let in (code 1): no reason is given" in said.out
    found = summarise(read(tmp_path / "ledger.jsonl"))
    assert (found.left_bytes, len(found.replies), len(found.not_taken)) == (5, 3, 0)
    assert "without study" in (tmp_path / "ledger.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b'{"digest":"'])
def test_a_ledger_without_a_line_is_said(sonofed: Command, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    said = sonofed("audit", "show", path)
    assert (said.code, said.out) == (2, "")
    assert f"{path}: holds no whole line" in said.err


def test_what_the_server_never_took_is_not_what_left(sonofed: Command, tmp_path: Path) -> None:
    with Book(tmp_path, "west", "gate") as book:
        for _ in range(2):
            asked = book.ledger.append(
                {**EVENT, "kind": "instruction", "tensors": 1, "bytes": 7_000_000,
                 "digest": "c" * 64, "bundle": ""}
            )  # fmt: skip
            book.ledger.append({**REPLY, "bytes": 3_000_000, "instruction": asked.sequence})
        book.undelivered(asked.sequence, "its run was over")
        book.ledger.append({"kind": "purged", "what": "patient", "files": 3, "bytes": 2_000_000})
    (tmp_path / "ledger.jsonl.head").unlink()
    Book(tmp_path, "west", "gate").ledger.close()
    found = summarise(read(tmp_path / "ledger.jsonl"))
    assert (found.left_bytes, found.not_taken_bytes) == (3_000_000, 3_000_000)
    assert sum(found.days.values()) == found.left_bytes
    said = sonofed("audit", "show", tmp_path, "--html")
    page = (tmp_path / "ledger.html").read_text(encoding="utf-8")
    assert "left: 1 message, 3.0 MB; not taken by the server: 1 message, 3.0 MB; " in said.out
    assert "came in: 2 messages, 14.0 MB" in said.out
    for words in (
        "line 5: the server never took the answer to the instruction of line 3: its run was over",
        "line 6: what was left here of a patient was removed on ",
        "3 files, 2.0 MB",
        "line 7: the head file had been taken away",
    ):
        assert words in said.out
        assert words in page
    assert "Each reply that the server never took" in page
    assert page.count("c" * 16) == 2


@pytest.mark.parametrize(
    ("is_open", "words"),
    [(True, "the machine's own network: the gate was not its only door, as user number 7"),
     (False, "a network without ways out, as user number 7")],
)  # fmt: skip
def test_an_open_network_is_said(
    sonofed: Command, tmp_path: Path, is_open: bool, words: str
) -> None:
    with Book(tmp_path, "west", "gate") as book:
        book.network(is_open=is_open, uid=7)
        book.network(is_open=is_open, uid=7)
    said = " ".join(sonofed("audit", "show", tmp_path).out.split())
    assert said.count(f"from here on training ran in {words}") == 1
