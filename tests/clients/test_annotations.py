"""Worklists and labels: what is written is read, once, in order; the latest word counts."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clients.annotations import (
    Choice,
    Label,
    add_labels,
    all_worklists,
    annotated,
    close_labels,
    counted_labels,
    is_closed,
    read_labels,
    read_worklist,
    standing,
    utc,
    write_worklist,
)
from common.errors import InputError

CHOICES = [
    Choice("b,1", 1, "least sure", 0.1 + 0.2, 1e-17),
    Choice('a "2"', 2, "near, and unsure", None, 0.5),
    Choice("ü", 3, ""),
]


def label(id_: str, said: str, time: str = "2027-03-01", reader: str = "Dr A") -> Label:
    return Label(id_, said, reader, utc(time), "0" * 64)


def test_a_worklist_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    path = write_worklist(tmp_path, "dual", 0.125, CHOICES)
    assert path == tmp_path / "selection" / "dual" / "12_5" / "worklist.csv"
    assert read_worklist(tmp_path, "dual", 0.125) == CHOICES
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == ["id", "rank", "uncertainty", "distance", "reason"]
    assert [entry.name for entry in path.parent.iterdir()] == ["worklist.csv"]


def test_a_site_with_nothing_to_do_has_an_empty_list(tmp_path: Path) -> None:
    write_worklist(tmp_path, "dual", 0.2, [])
    assert read_worklist(tmp_path, "dual", 0.2) == []
    assert annotated(tmp_path, "dual", 0.2) == ([], [])


def test_what_was_never_selected_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing has been selected for dual yet"):
        annotated(tmp_path, "dual", 0.2)


def test_all_worklists_by_arm_and_size(tmp_path: Path) -> None:
    for arm, budget in (("dual", 1.0), ("dual", 0.2), ("dual", 0.125), ("bald", 0.5)):
        write_worklist(tmp_path, arm, budget, CHOICES[:1])
    assert list(all_worklists(tmp_path)) == [
        ("bald", "50"), ("dual", "12_5"), ("dual", "20"), ("dual", "100"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2027-03-01", "2027-03-01T00:00:00Z"),
        ("2027-03-01T09:30", "2027-03-01T09:30:00Z"),
        ("2027-03-01T09:30:00+02:00", "2027-03-01T07:30:00Z"),
        ("20270301T093000Z", "2027-03-01T09:30:00Z"),
        ("2027-03-01 09:30:00.250", "2027-03-01T09:30:00.250000Z"),
    ],
)
def test_times_are_kept_in_one_way(text: str, kept: str) -> None:
    assert utc(text) == kept
    assert utc(kept) == kept


def test_lines_are_added_once_and_all_are_kept(tmp_path: Path) -> None:
    first, other = label("a", "benign"), label("a", "malignant", reader="Dr B")
    assert add_labels(tmp_path, [first, first]) == [first]
    assert add_labels(tmp_path, [first, other]) == [other]
    assert add_labels(tmp_path, [other]) == []
    assert read_labels(tmp_path) == [first, other]


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    add_labels(tmp_path, [label("a", "benign")])
    before = (tmp_path / "labels.csv").stat().st_ino
    add_labels(tmp_path, [label("a", "benign")])
    assert (tmp_path / "labels.csv").stat().st_ino == before


def test_two_readers_at_once(tmp_path: Path) -> None:
    """Nobody's lines are lost."""
    each = [[label(f"{reader}{n}", "benign") for n in range(5)] for reader in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lines: [add_labels(tmp_path, [line]) for line in lines], each))
    assert set(read_labels(tmp_path)) == {line for lines in each for line in lines}


def test_annotated_in_rank_order(tmp_path: Path) -> None:
    write_worklist(tmp_path, "dual", 0.2, CHOICES)
    add_labels(tmp_path, [label("ü", "benign"), label("b,1", "malignant"), label("x", "benign")])
    assert annotated(tmp_path, "dual", 0.2) == (["b,1", "ü"], ["malignant", "benign"])
    lists = all_worklists(tmp_path)
    assert standing(lists, counted_labels(tmp_path)) == {("dual", "20"): (2, 3)}


def test_what_comes_after_the_study_went_on_counts_no_more(tmp_path: Path) -> None:
    write_worklist(tmp_path, "dual", 0.2, CHOICES)
    add_labels(tmp_path, [label("b,1", "benign")])
    assert not is_closed(tmp_path)
    close_labels(tmp_path)
    assert is_closed(tmp_path)
    add_labels(tmp_path, [label("b,1", "malignant", "2028-01-01"), label("ü", "benign")])
    close_labels(tmp_path)
    assert annotated(tmp_path, "dual", 0.2) == (["b,1"], ["benign"])
    assert len(read_labels(tmp_path)) == 3


@pytest.mark.parametrize("text", ["id,label\na,benign\n", "id,label,reader,time,image_sha256\na\n"])
def test_a_spoilt_file_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match="is not as it was written"):
        read_labels(tmp_path)
