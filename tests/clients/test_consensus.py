"""The rule by which words count, word by word."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.annotations import close_labels, counted_labels, counted_outlines, write_worklist
from clients.consensus import (
    AGREE_DICE,
    Rules,
    decided,
    dice_of,
    read_rules,
    settle_label,
    settled_labels,
    settled_outlines,
    words_of,
    write_rules,
)
from clients.words import (
    PLAYED,
    Decision,
    Label,
    Outline,
    add_decision,
    add_labels,
    add_outlines,
    mask_file,
    now_after,
    outline_path,
    read_mask_of,
    read_outlines,
    utc,
)
from common.errors import InputError

ONE = Rules()


def label(id_: str, said: str, time: str = "2027-03-01", reader: str = "Dr A") -> Label:
    return Label(id_, said, reader, utc(time), "0" * 64)


def decision(word: str, time: str = "2027-03-05", what: str = "label") -> Decision:
    return Decision("a", what, word, "Dr C", utc(time), "0" * 64)


def state_of(*said: Label, decisions: tuple[Decision, ...] = (), rules: Rules = ONE) -> list[str]:
    found = settled_labels(words_of(said), decisions, rules)["a"]
    return [found.state, found.word]


def test_a_readers_latest_word_stands_then_the_last_line() -> None:
    lines = [
        label("a", "benign", "2027-03-01T10:00:00+02:00"),
        label("a", "malignant", "2027-03-01T09:00:00Z"),
        label("a", "benign", "2027-03-01T08:30:00Z"),
        label("b", "benign"),
        label("b", "malignant"),
    ]
    words = words_of(lines)
    assert {id_: said["Dr A"].label for id_, said in words.items()} == {
        "a": "malignant", "b": "malignant",
    }  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**8)), unique=True))
def test_the_order_of_lines_does_not_matter(said: list[tuple[str, int]]) -> None:
    """With distinct times; seconds and fractions, which do not sort as text, among them."""
    lines = [
        label(id_, str(n), f"2027-03-01T00:00:{n // 10**7:02}.{n % 10**6:06}Z" if n % 2 else
              f"2027-03-01T00:00:{n // 10**7:02}Z")
        for n, (id_, _) in enumerate(said)
    ]  # fmt: skip
    lines = list({(x.id, x.time): x for x in lines}.values())
    shuffled = random.Random(0).sample(lines, len(lines))
    assert words_of(lines) == words_of(shuffled)


def test_one_reader_is_enough_unless_the_site_asks_for_more() -> None:
    one = label("a", "benign")
    assert state_of(one) == ["agreed", "benign"]
    assert state_of(one, rules=Rules(readers=2)) == ["waiting", ""]
    other = label("a", "benign", reader="Dr B")
    assert state_of(one, other, rules=Rules(readers=2)) == ["agreed", "benign"]


def test_two_who_disagree_count_for_nothing_until_a_third_tips_the_scale() -> None:
    two = (label("a", "benign"), label("a", "malignant", reader="Dr B"))
    assert state_of(*two) == ["disputed", ""]
    assert state_of(*two, label("a", "malignant", reader="Dr C")) == ["agreed", "malignant"]
    assert state_of(*two, label("a", "cyst", reader="Dr C")) == ["disputed", ""]
    assert state_of(*two, label("a", "benign", "2027-03-02", "Dr B")) == ["agreed", "benign"]


def test_a_decision_counts_until_it_is_taken_back() -> None:
    two = (label("a", "benign"), label("a", "malignant", reader="Dr B"))
    first, second = decision("malignant"), decision("benign", "2027-03-06")
    assert state_of(*two, decisions=(first,)) == ["decided", "malignant"]
    assert state_of(*two, decisions=(first, second)) == ["decided", "benign"]
    assert state_of(*two, decisions=(second, first)) == ["decided", "benign"]
    back = decision("", "2027-03-07")
    assert state_of(*two, decisions=(first, second, back)) == ["disputed", ""]
    assert decided([decision("x", what="outline")], "label") == {}


def test_what_was_taken_back_is_no_word() -> None:
    assert words_of([label("a", "benign"), label("a", "", "2027-03-02")]) == {}
    found = settle_label({}, "", ONE)
    assert (found.state, found.word, dict(found.readers)) == ("open", "", {})


def test_the_manifests_labels_give_way_to_any_reader() -> None:
    played = label("a", "benign", "1970-01-01", PLAYED)
    assert state_of(played) == ["agreed", "benign"]
    assert state_of(played, rules=Rules(readers=2)) == ["agreed", "benign"]
    assert state_of(played, label("a", "malignant")) == ["agreed", "malignant"]
    assert state_of(played, label("a", "malignant"), rules=Rules(readers=2)) == ["waiting", ""]


def test_a_time_is_later_than_what_was_said_before() -> None:
    future = label("a", "benign", "2999-01-01")
    assert now_after([future]) == "2999-01-01T00:00:00.001000Z"
    assert now_after([]).endswith("Z")


def disc(x: int, radius: int = 10, value: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[:40, :60]
    return np.where((rows - 20) ** 2 + (columns - x) ** 2 <= radius**2, value, 0).astype(np.uint8)


def draw(folder: Path, reader: str, mask: np.ndarray | None, time: str = "2027-03-01") -> str:
    digest, content = mask_file(mask, 0) if mask is not None else ("", b"")
    line = Outline("a", digest, reader, utc(time), "0" * 64)
    add_outlines(folder, [line], {digest: content})
    return digest


def test_dice_is_that_of_the_class_that_agrees_least() -> None:
    one = disc(20) + disc(45, 5, 2)
    assert dice_of(one, one) == 1
    assert dice_of(one, disc(20)) == 0
    assert dice_of(disc(20), disc(20)[:, :50]) == 0
    half = np.zeros((2, 4), np.uint8), np.ones((2, 4), np.uint8)
    half[0][:, :2] = 1
    assert dice_of(half[0], half[1]) == pytest.approx(2 * 4 / 12)
    empty = np.zeros((2, 2), np.uint8)
    assert dice_of(empty, empty) == 1


def test_outlines_that_overlap_agree_and_the_latest_counts(tmp_path: Path) -> None:
    first = draw(tmp_path, "Dr A", disc(20))
    second = draw(tmp_path, "Dr B", disc(21), "2027-03-02")
    assert dice_of(disc(20), disc(21)) >= AGREE_DICE
    assert counted_outlines(tmp_path) == {"a": second}
    draw(tmp_path, "Dr B", disc(40), "2027-03-03")
    assert counted_outlines(tmp_path) == {}
    third = draw(tmp_path, "Dr C", disc(19), "2027-03-04")
    assert counted_outlines(tmp_path) == {"a": third}
    add_decision(tmp_path, Decision("a", "outline", first, "Dr C", utc("2027-03-05"), "0" * 64))
    assert counted_outlines(tmp_path) == {"a": first}
    lines = words_of(read_outlines(tmp_path))
    found = settled_outlines(tmp_path, lines, [], Rules(readers=4))["a"]
    assert (found.state, len(found.readers)) == ("waiting", 3)


def test_an_outline_that_is_replaced_leaves_no_file(tmp_path: Path) -> None:
    first = draw(tmp_path, "Dr A", disc(20))
    second = draw(tmp_path, "Dr A", disc(30), "2027-03-02")
    assert not outline_path(tmp_path, first).exists()
    assert np.array_equal(read_mask_of(tmp_path, second, 0), disc(30))
    assert draw(tmp_path, "Dr A", disc(25), "2027-03-01") != second  # an older word is not taken
    assert [line.outline for line in read_outlines(tmp_path)] == [second]
    draw(tmp_path, "Dr B", disc(30), "2027-03-02")
    draw(tmp_path, "Dr A", None, "2027-03-03")
    assert outline_path(tmp_path, second).exists()  # it is Dr B's too


def test_a_decided_or_settled_outline_keeps_its_file(tmp_path: Path) -> None:
    first = draw(tmp_path, "Dr A", disc(20))
    add_decision(tmp_path, Decision("a", "outline", first, "Dr C", utc("2027-03-05"), "0" * 64))
    second = draw(tmp_path, "Dr A", disc(30), "2027-03-06")
    close_labels(tmp_path)
    draw(tmp_path, "Dr A", disc(40), "2027-03-07")
    assert outline_path(tmp_path, first).exists()
    assert not outline_path(tmp_path, second).exists()
    assert counted_outlines(tmp_path) == {"a": first}


def test_a_mask_that_somebody_changed_is_not_believed(tmp_path: Path) -> None:
    digest = draw(tmp_path, "Dr A", disc(20))
    outline_path(tmp_path, digest).write_bytes(mask_file(disc(30), 0)[1])
    with pytest.raises(InputError, match="is not the mask that was drawn"):
        read_mask_of(tmp_path, digest, 0)
    outline_path(tmp_path, digest).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_mask_of(tmp_path, digest, 0)


def test_where_outlines_are_waited_for_a_label_alone_counts_not(tmp_path: Path) -> None:
    write_worklist(tmp_path, "dual", 0.2, [])
    add_labels(tmp_path, [label("a", "benign"), label("b", "benign")])
    draw(tmp_path, "Dr A", np.zeros((4, 4), np.uint8))
    assert counted_labels(tmp_path) == {"a": "benign", "b": "benign"}
    write_rules(tmp_path, Rules(outlines=True))
    assert counted_labels(tmp_path) == {"a": "benign"}
    close_labels(tmp_path)
    write_rules(tmp_path, ONE)
    assert counted_labels(tmp_path) == {"a": "benign"}


def test_rules_that_are_none_are_said(tmp_path: Path) -> None:
    assert read_rules(tmp_path) == ONE
    (tmp_path / "reading.json").write_text('{"readers": 0, "rules": 1}')
    with pytest.raises(InputError) as caught:
        read_rules(tmp_path)
    assert len(caught.value.problems) == 2
