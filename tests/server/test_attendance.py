"""Who left and came back, as it is written down and told."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.plan import make_plan
from server.attendance import FILE, gone, note, read_changes, sentences, spans
from server.checkpoint import Record
from tests.tiny import targets


def test_the_last_word_counts(tmp_path: Path) -> None:
    assert read_changes(tmp_path) == []
    note(tmp_path, "dropped", "bo", "its machine is being replaced")
    note(tmp_path, "dropped", "cy")
    note(tmp_path, "added", "bo")
    changes = read_changes(tmp_path)
    assert [(change.change, change.site) for change in changes] == [
        ("dropped", "bo"), ("dropped", "cy"), ("added", "bo"),
    ]  # fmt: skip
    assert changes[0].reason == "its machine is being replaced"
    assert set(gone(changes)) == {"cy"}


def test_a_line_that_a_kill_cut_short_counts_for_nothing(tmp_path: Path) -> None:
    note(tmp_path, "dropped", "bo")
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + whole.replace(b"bo", b"cy")[:-9])
    assert set(gone(read_changes(tmp_path))) == {"bo"}
    note(tmp_path, "added", "bo")
    assert gone(read_changes(tmp_path)) == {}


def test_a_line_that_says_something_else(tmp_path: Path) -> None:
    note(tmp_path, "dropped", "bo")
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b"dropped", b"shut out"))
    with pytest.raises(InputError, match="a line is none of a site's leaving"):
        read_changes(tmp_path)


@pytest.mark.parametrize(
    ("rounds", "words"), [([1], "1"), ([1, 2, 3], "1-3"), ([1, 2, 4, 6, 7], "1-2, 4, 6-7")]
)
def test_spans(rounds: list[int], words: str) -> None:
    assert spans(rounds) == words


def test_what_a_reader_is_told(tmp_path: Path) -> None:
    plan = make_plan(targets(2, arms=["ensemble"]))
    note(tmp_path, "dropped", "site1", "no network")
    changes = read_changes(tmp_path)
    records = {key: Record(key, round=3) for key in plan.trainings}
    records["mim/mim"].took_part = {"site0": [1, 2, 3], "site1": [1, 2]}
    records["contrastive/contrastive"].took_part = {"site0": [1, 2, 3], "site1": [1, 2, 3]}
    (told,) = sentences(changes, plan, records, ["site0"])
    assert told.startswith(f"site1: dropped on {changes[0].time[:10]} at ")
    assert told.endswith(
        "UTC (no network). It took part in rounds 1-2 of 3 of mim/mim and every round of "
        "contrastive/contrastive; it was not evaluated."
    )
