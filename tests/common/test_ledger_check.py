"""A ledger against the server's receipts; and the verifier in the docs agrees with ours."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.ledger import Ledger, head_path, segments
from common.ledger_check import read, verify
from tests.common.ledgers import KEY, OTHER, PUBLIC, ROOT, problem, receipts_for, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_a_cut_end_without_its_head_file_is_seen_against_receipts(path: Path) -> None:
    lines = write(path)
    receipts = receipts_for(path, lines)
    assert problem(path, receipts) == ""
    confirmed = [n for n in verify(path, PUBLIC, receipts).notes if "confirms" in n]
    assert confirmed == ["the server confirms 4 replies, byte for byte"]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    head_path(path).unlink()
    assert problem(path) == ""
    notes = verify(path, PUBLIC).notes
    assert any("a cut end cannot be seen" in note for note in notes)
    assert any("without the server's receipts" in note for note in notes)
    assert "received a reply of line 4, which is not in the ledger" in problem(path, receipts)


@pytest.mark.parametrize("change", [{"bytes": 9}, {"digest": "f" * 64}, {"head": "0" * 64}])
def test_a_receipt_of_something_else_is_seen(path: Path, change: dict[str, Any]) -> None:
    receipts = receipts_for(path, write(path, 1), **change)
    assert "received something else than line 1 says" in problem(path, receipts)


def test_a_ledger_made_anew_with_another_key_is_seen_by_its_sites_name(path: Path) -> None:
    """Whoever takes the key's place can write any ledger; the server knows of the old one."""
    receipts = receipts_for(path, write(path, 3))
    anew = path.with_name("anew.jsonl")
    with Ledger(anew, OTHER, {"site": "north"}) as book:
        line = book.append({"kind": "reply", "bytes": 1, "digest": "1" * 64})
    found = verify(anew, None, receipts).problem
    assert found is not None
    assert (found.file, found.number) == (receipts, 2)
    assert "a reply of north from a ledger with another key" in found.words
    assert PUBLIC.hex()[:16] in found.words
    # Not even where the server confirms a reply of the new one.
    key = OTHER.public_key().public_bytes_raw().hex()
    more = receipts_for(path, [line], "more.jsonl", key=key)
    assert verify(anew, None, more).problem is None
    assert verify(anew, None, [more, receipts]).problem is not None
    other = receipts_for(path, [line], "other.jsonl", key="ab" * 32, site="south")
    assert verify(anew, None, [other, more]).problem is None


def test_receipts_that_speak_of_none_of_a_ledgers_replies_prove_nothing(path: Path) -> None:
    lines = write(path, 3)
    other = receipts_for(path, lines, key="ab" * 32, site="south")
    assert problem(path, other) == (
        f"{path}: these receipts speak of none of the 3 replies in this ledger"
    )
    assert problem(path, receipts_for(path, [], "empty.jsonl"))
    # Receipts of one study among several are enough; the rest is said.
    some = receipts_for(path, lines[:1], "some.jsonl")
    verdict = verify(path, PUBLIC, some)
    assert verdict.problem is None
    assert "2 replies have no receipt: they may never have arrived" in verdict.notes


def test_a_ledger_without_replies_needs_no_receipt(path: Path) -> None:
    write(path, 0)
    receipts = receipts_for(path, [], key="ab" * 32, site="south")
    assert problem(path, receipts) == ""


def test_what_the_server_never_took_needs_no_receipt(path: Path) -> None:
    with Ledger(path, KEY, {"site": "north"}) as book:
        came = book.append({"kind": "instruction"}).sequence
        book.append({"kind": "reply", "bytes": 1, "digest": "0" * 64, "instruction": came})
        book.append({"kind": "undelivered", "instruction": came, "why": "its run was over"})
    verdict = verify(path, PUBLIC, receipts_for(path, []))
    assert verdict.problem is None
    assert "1 replies the server never took, as the ledger says" in verdict.notes


@pytest.mark.parametrize("sequence", [True, "1", [1], None])
def test_a_receipt_for_no_line_at_all_is_seen(path: Path, sequence: object) -> None:
    receipts = receipts_for(path, write(path, 1), sequence=sequence)
    assert "which is not in the ledger" in problem(path, receipts)


def test_receipts_that_were_changed_are_no_receipts(path: Path) -> None:
    receipts = receipts_for(path, write(path, 2))
    receipts.write_bytes(receipts.read_bytes().replace(b'"bytes":1', b'"bytes":2'))
    assert str(receipts) in problem(path, receipts)


def appendix(folder: Path) -> Path:
    """The verifier in docs/ledger.md, as a stranger would cut it out."""
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) < 60
    script = folder / "verifier.py"
    script.write_text(code, encoding="utf-8")
    return script


def run_appendix(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(appendix(folder)), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_the_strangers_verifier_agrees(path: Path, tmp_path: Path) -> None:
    lines = write(path, 12, rotate_bytes=1500)
    lines += write(path, 2)
    receipts = receipts_for(path, lines)
    whole = [*segments(path), path]
    done = run_appendix(tmp_path, PUBLIC.hex(), *whole, "--head", head_path(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{sum(1 for _ in read(path))} lines, head {list(read(path))[-1].hash}" in done.stdout
    key = OTHER.public_key().public_bytes_raw().hex()
    assert run_appendix(tmp_path, key, receipts).returncode == 0
    assert run_appendix(tmp_path, key, *whole).returncode == 1
    assert run_appendix(tmp_path, PUBLIC.hex(), *whole[1:]).returncode == 1
    original = path.read_bytes()
    path.write_bytes(original.replace(b'"bytes":1,', b'"bytes":2,'))
    assert run_appendix(tmp_path, PUBLIC.hex(), *whole).returncode == 1
    path.write_bytes(b"".join(original.splitlines(keepends=True)[:-1]))
    assert run_appendix(tmp_path, PUBLIC.hex(), *whole).returncode == 0
    cut = run_appendix(tmp_path, PUBLIC.hex(), *whole, "--head", head_path(path))
    assert cut.returncode == 1


def receipt_line(path: Path, **change: Any) -> str:
    """A receipt for the ledger's first reply, or nearly one."""
    line = next(line for line in read(path) if line.event["kind"] == "reply")
    file = receipts_for(path, [line], f"{len(change)}{sorted(change)}.jsonl", **change)
    return file.read_bytes().splitlines()[1].decode()


@pytest.mark.parametrize(
    ("change", "sound"),
    [
        ({}, True),
        ({"bytes": 7}, False),
        ({"digest": "f" * 64}, False),
        ({"head": "0" * 64}, False),
        ({"key": "ab" * 32}, False),
        ({"sequence": 0}, False),
        ({"sequence": 99}, False),
        ("no receipt", False),
        ("{}", False),
        ("Zürich", False),
    ],
)
def test_both_verifiers_agree_on_receipts_in_a_ledger(
    path: Path, tmp_path: Path, change: dict[str, Any] | str, sound: bool
) -> None:
    write(path, 2)
    told = change if isinstance(change, str) else receipt_line(path, **change)
    with Ledger(path, KEY) as book:
        book.append({"kind": "receipt", "line": told})
        book.append({"kind": "policy"})
    done = run_appendix(tmp_path, PUBLIC.hex(), path, "--head", head_path(path))
    assert (problem(path) == "") == sound
    assert (done.returncode == 0) == sound
    if not sound:
        assert "line 4: " in problem(path)
        assert "line 4: " in done.stderr


def test_both_verifiers_say_that_an_empty_file_is_no_ledger(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")
    assert "holds no line" in problem(path)
    assert "holds no line" in run_appendix(tmp_path, PUBLIC.hex(), path).stderr
