"""The ledger: a change inside is always seen, a cut end against its head file."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import ledger
from common.errors import InputError
from common.ledger import Ledger, LedgerError, head_path, segments
from common.ledger_check import read, verify
from common.ledger_format import canonical, read_entry, seal
from common.signing import make_key, public_path, read_key, read_public_key
from tests.common.ledgers import KEY, OTHER, PUBLIC, ROOT, problem, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_an_honest_ledger_verifies(path: Path) -> None:
    lines = write(path)
    write(path, 2)
    verdict = verify(path, PUBLIC)
    assert verdict.problem is None
    assert (verdict.lines, verdict.site, verdict.key) == (7, "north", PUBLIC.hex())
    assert [line.sequence for line in read(path)] == list(range(7))
    assert list(read(path))[1] == lines[0]
    assert [note for note in verdict.notes if "receipts" not in note] == []
    assert any("--key" in note for note in verify(path).notes)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=12,
    )
)
def test_canonical_json_is_one_text_a_value(value: object) -> None:
    import json

    text = canonical(value)
    assert text.isascii()
    assert canonical(json.loads(text)) == text


@pytest.mark.parametrize("value", [0.5, 2**53, {"a": [1.0]}, {1: 2}, b"x", {"a": {3}}])
def test_a_ledger_holds_no_float_and_nothing_that_readers_disagree_on(value: object) -> None:
    with pytest.raises(TypeError):
        canonical(value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_seen(path: Path, data: st.DataObject) -> None:
    if not path.exists():
        write(path)
    original = path.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != original[place]))
    path.write_bytes(original[:place] + bytes([value]) + original[place + 1 :])
    try:
        if place == len(original) - 1:  # the last line feed: a line that was cut
            assert problem(path)
        else:
            line = original[:place].count(b"\n") + 1
            found = verify(path, PUBLIC).problem
            assert found is not None
            assert found.number in (line, line + 1)
    finally:
        path.write_bytes(original)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_removed_doubled_swapped_and_foreign_lines_are_seen(
    path: Path, data: st.DataObject
) -> None:
    if not path.exists():
        write(path, 6)
    original = path.read_bytes()
    lines = original.splitlines(keepends=True)
    first = data.draw(st.integers(0, len(lines) - 1))
    second = data.draw(st.integers(0, len(lines) - 1).filter(lambda v: v != first))
    changed = list(lines)
    match data.draw(st.sampled_from(["remove", "double", "swap", "signature", "resign"])):
        case "remove":
            del changed[first]
        case "double":
            changed.insert(second, lines[first])
        case "swap":
            changed[first], changed[second] = changed[second], changed[first]
        case "signature":
            changed[first] = lines[first][:-131] + lines[second][-131:]
        case "resign":
            entry = read_entry(lines[first][:-1])
            changed[first] = seal(entry, OTHER) + b"\n"
    path.write_bytes(b"".join(changed))
    try:
        assert problem(path)
    finally:
        path.write_bytes(original)


def test_one_who_has_the_key_cannot_change_a_line_and_keep_the_chain(path: Path) -> None:
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    entry = read_entry(lines[2][:-1])
    entry["event"]["bytes"] = 7
    lines[2] = seal(entry, KEY) + b"\n"
    path.write_bytes(b"".join(lines))
    assert "line 4: does not follow from the line before it" in problem(path)


def test_a_cut_end_is_seen_against_the_head_file(path: Path) -> None:
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        gone = len(lines) - kept
        assert f"{gone} line(s) are cut off: the head file knows them" in problem(path)
    path.write_bytes(b"")
    assert "holds no line" in problem(path)


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_ledger_cut_in_the_middle_of_a_line_goes_on_safely(path: Path, cut: int) -> None:
    """A stop in the middle of writing: the head file still knows the line before."""
    write(path, 3)
    head = head_path(path).read_bytes()
    write(path, 1)
    head_path(path).write_bytes(head)
    path.write_bytes(path.read_bytes()[:-cut])
    verdict = verify(path, PUBLIC)
    assert verdict.problem is None
    assert any("line 5: is cut off in its middle" in note for note in verdict.notes)
    write(path, 1)
    verdict = verify(path, PUBLIC)
    assert verdict.problem is None, verdict.problem
    assert verdict.lines == 6
    events = [line.event for line in read(path)]
    assert events[4]["kind"] == "recovered"
    assert events[4]["lines_missing"] == 0
    assert any("had not left" in note for note in verdict.notes)


def test_lines_that_somebody_cut_off_stay_told_for_ever(path: Path) -> None:
    write(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    write(path, 2)
    assert "2 line(s) before it were cut off" in problem(path)


@pytest.mark.parametrize("kept", [0, 30])
def test_a_first_line_cut_in_its_middle(path: Path, kept: int) -> None:
    write(path, 0)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LedgerError, match="holds no line, but its head file knows 1"):
        write(path)
    head_path(path).unlink()
    write(path)
    assert problem(path) == ""


def test_a_head_file_taken_away_is_told(path: Path) -> None:
    write(path)
    head_path(path).unlink()
    write(path)
    assert any("the head file had been taken away" in n for n in verify(path, PUBLIC).notes)


def test_a_ledger_taken_away_is_not_begun_anew(path: Path) -> None:
    write(path)
    path.unlink()
    with pytest.raises(LedgerError, match="its head file knows 5"):
        write(path)
    with pytest.raises(InputError, match="no such ledger"):
        verify(path)


def test_the_wrong_key_opens_nothing(path: Path) -> None:
    write(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"was begun with another key|is not by this key"):
        Ledger(path, OTHER)
    assert path.read_bytes() == before
    wrong = verify(path, OTHER.public_key().public_bytes_raw()).problem
    assert wrong is not None
    assert wrong.number == 1
    assert "another key" in wrong.words


def test_a_changed_last_line_is_not_built_upon(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes().replace(b'"bytes":3', b'"bytes":4'))
    with pytest.raises(LedgerError, match="its last line was changed"):
        Ledger(path, KEY)


def test_the_clock_set_back_is_recorded(path: Path) -> None:
    start = datetime(2026, 11, 24, 12, tzinfo=UTC)
    moments = iter([start, start + timedelta(hours=1), start, start + timedelta(minutes=1)])
    write(path, 3, clock=lambda: next(moments))
    told = [line.event.get("clock_back_us", 0) for line in read(path)]
    assert told == [0, 0, 3_600_000_000, 0]
    verdict = verify(path, PUBLIC)
    assert verdict.problem is None
    assert any("set back 3600.000 s" in note for note in verdict.notes)


def test_a_time_before_the_last_that_is_not_told_is_seen(path: Path) -> None:
    write(path, 0)
    (first,) = read(path)
    entry = {
        "event": {"kind": "reply"}, "previous": first.hash, "sequence": 1,
        "time": "2001-01-01T00:00:00.000000Z",
    }  # fmt: skip
    with path.open("ab") as file:
        file.write(seal(entry, KEY) + b"\n")
    assert "line 2: its time is before that of the line above" in problem(path)


def test_two_writers_exclude_each_other(path: Path) -> None:
    with Ledger(path, KEY):
        with pytest.raises(LedgerError, match="another process writes it"):
            Ledger(path, KEY)
        with pytest.raises(LedgerError, match="another process writes it"):
            Ledger(path, KEY, wait_s=0.05)
    Ledger(path, KEY).close()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["write", "fsync", "head"])
def test_a_full_disk_is_an_error_and_leaves_no_trace(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: object) -> None:
        raise FULL

    with Ledger(path, KEY) as book:
        book.append({"kind": "reply", "n": 1})
        before = path.read_bytes()
        with monkeypatch.context() as broken:
            if what == "write":
                honest: Callable[..., None] = ledger._write_all

                def half(file: Any, data: bytes) -> None:
                    honest(file, data[: len(data) // 2])
                    raise FULL

                broken.setattr(ledger, "_write_all", half)
            elif what == "fsync":
                broken.setattr(os, "fsync", full)
            else:
                broken.setattr(os, "replace", full)
            with pytest.raises(LedgerError, match="No space left on device"):
                book.append({"kind": "reply", "n": 2})
        if what == "fsync":  # not even taking it back could be made sure of
            with pytest.raises(LedgerError, match="half a line"):
                book.append({"kind": "reply", "n": 3})
        else:
            assert path.read_bytes() == before
            book.append({"kind": "reply", "n": 3})
    write(path, 1)
    assert problem(path) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_write_that_the_system_refuses_is_an_error() -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        ledger._write_all(file, b"x")


def test_rotation_keeps_one_chain(path: Path) -> None:
    write(path, 12, rotate_bytes=1500)
    closed = segments(path)
    assert len(closed) >= 2
    assert problem(path) == ""
    lines = list(read(path))
    assert [line.sequence for line in lines] == list(range(len(lines)))
    assert sum(line.event["kind"] == "reply" for line in lines) == 12
    assert lines[0].event["kind"] == "opened"
    for file in closed:
        assert b'"kind":"rotated"' in file.read_bytes().splitlines()[-1]
    # A closed file is cut, removed, or put aside.
    last = closed[0].read_bytes()
    closed[0].write_bytes(b"".join(last.splitlines(keepends=True)[:-1]))
    assert "lines are gone" in problem(path)
    closed[0].unlink()
    assert "does not open a ledger: earlier files are gone" in problem(path)


def test_a_rotated_ledger_whose_end_was_taken_away_tells_so_too(path: Path) -> None:
    """As an unrotated one does: the head file had been there, and is not."""
    write(path, 40, rotate_bytes=1500)
    for file in (path, head_path(path), *segments(path)[2:]):
        file.unlink()
    write(path, 1, rotate_bytes=1500)
    found = [line.event for line in read(path) if line.event["kind"] == "recovered"]
    assert [(event["head_sequence"], event["lines_missing"]) for event in found] == [(-1, 0)]
    verdict = verify(path, PUBLIC)
    assert verdict.problem is None
    assert any("the head file had been taken away" in note for note in verdict.notes)


@pytest.mark.parametrize("kept", [0, 1])
def test_lines_gone_from_behind_a_closed_file_are_counted(path: Path, kept: int) -> None:
    """The head file knows them, also where the line that goes on would take the place of one."""
    write(path, 40, rotate_bytes=1500)
    last = len(list(read(path)))
    path.unlink()
    for file in segments(path)[1 + kept :]:
        file.unlink()
    gone = last - len(list(read(path)))
    write(path, 1, rotate_bytes=1500)
    assert f"{gone} line(s) before it were cut off" in problem(path)


@pytest.mark.parametrize("stage", ["told", "renamed", "empty", "half"])
def test_a_stop_in_the_middle_of_rotation_is_gone_on_from(
    path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with monkeypatch.context() as stopped:
        stopped.setattr(Ledger, "_rotate", lambda *_, **__: None)
        with Ledger(path, KEY) as book:
            book.append({"kind": "reply", "n": 0})
            line = book.append({"kind": "rotated"})
    if stage != "told":
        path.rename(ledger.segment_path(path, line.sequence))
    if stage in ("empty", "half"):
        path.write_bytes(b'{"dig' if stage == "half" else b"")
    write(path, 1)
    assert problem(path) == ""
    assert len(segments(path)) == 1
    assert [entry.event["kind"] for entry in read(path)][:4] == [
        "opened", "reply", "rotated", "continued",
    ]  # fmt: skip


def test_what_stops_rotation_does_not_unwrite_the_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL

    with Ledger(path, KEY, rotate_bytes=1) as book:
        with monkeypatch.context() as broken:
            broken.setattr(os, "rename", full)
            line = book.append({"kind": "reply", "n": 1})
        assert path.read_bytes().splitlines()[1] == line.raw
        with pytest.raises(LedgerError, match="No space"):
            book.append({"kind": "reply", "n": 2})
    write(path, 1)
    assert problem(path) == ""


KILLED = """
import sys
from pathlib import Path
from common.ledger import Ledger
from common.signing import read_key

with Ledger(Path(sys.argv[1]), read_key(Path(sys.argv[2]))) as book:
    print("ready", flush=True)
    while True:
        line = book.append({"kind": "reply", "filling": "x" * 2000})
        print(line.sequence, flush=True)
"""


def test_a_killed_writer_loses_no_line_that_it_had_written(path: Path, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "key")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(12)]
    process.kill()
    told += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    last = max(int(word) for word in told if word.strip().isdigit())
    with Ledger(path, key) as book:
        book.append({"kind": "reply"})
    verdict = verify(path, key.public_key().public_bytes_raw())
    assert verdict.problem is None
    assert verdict.lines >= last + 2


def test_keys_are_files_that_others_cannot_read(tmp_path: Path) -> None:
    place = tmp_path / "keys" / "ledger.key"
    key = make_key(place)
    assert place.stat().st_mode & 0o077 == 0
    assert read_key(place).private_bytes_raw() == key.private_bytes_raw()
    assert read_public_key(public_path(place)) == key.public_key().public_bytes_raw()
    with pytest.raises(InputError, match="no key can be written there"):
        make_key(place)
    for reader in (read_key, read_public_key):
        with pytest.raises(InputError, match="is no"):
            reader(tmp_path / "nothing")
        with pytest.raises(InputError, match="is no"):
            reader(place if reader is read_public_key else public_path(place))
