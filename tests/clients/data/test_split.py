from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.data.manifest import Row
from clients.data.split import Split, clusters, split_rows
from common.config.data import SplitConfig
from common.errors import InputError


def row(i: int, **values: str) -> Row:
    return Row(id=f"i{i}", image=Path(f"{i}.png"), number=i + 2, **values)  # type: ignore[arg-type]


def sides(split: Split, count: int) -> list[str]:
    names = [""] * count
    for side in ("train", "val", "test"):
        for i in getattr(split, side):
            assert names[i] == ""
            names[i] = side
    assert all(names)
    return names


def test_patients_stay_whole_and_shares_are_met() -> None:
    rows = [row(i, patient=f"p{i // 4}") for i in range(400)]
    split = split_rows(rows, SplitConfig(seed=3), site="a", test={})
    got = sides(split, 400)
    assert split.unit == "patient"
    assert all(len(set(got[k : k + 4])) == 1 for k in range(0, 400, 4))
    assert Counter(got) == {"train": 272, "val": 64, "test": 64}
    assert split.train.dtype == np.int64
    assert (np.diff(split.train) > 0).all()


def test_the_draw_is_seeded_by_site_and_knows_no_order() -> None:
    rows = [row(i, patient=f"p{i}") for i in range(60)]
    config = SplitConfig()
    first = split_rows(rows, config, site="a", test={}).ids(rows)
    assert split_rows(rows, config, site="a", test={}).ids(rows) == first
    back = split_rows(rows[::-1], config, site="a", test={}).ids(rows[::-1])
    assert {side: set(ids) for side, ids in back.items()} == {
        side: set(ids) for side, ids in first.items()
    }
    assert split_rows(rows, config, site="b", test={}).ids(rows) != first
    assert split_rows(rows, SplitConfig(seed=1), site="a", test={}).ids(rows) != first


def test_units() -> None:
    assert clusters([row(0, patient="p", group="g"), row(1, patient="p")])[1] == "patient"
    codes, unit = clusters([row(0, group="g"), row(1), row(2, group="g")])
    assert (codes.tolist(), unit) == ([0, 1, 0], "group")
    assert clusters([row(0, video="v"), row(1, video="v")])[1] == "group"
    assert clusters([row(0), row(1)])[1] == "image"
    assert clusters([row(0, patient="p"), row(1)])[1] == "image"


def test_the_manifest_wins_then_the_patterns_then_the_draw() -> None:
    rows = [row(i, patient=f"p{i}", split="train" if i < 10 else "", device="x") for i in range(50)]
    rows = [
        Row(**{**vars(r), "extra": {"fold": "4" if i % 5 == 4 else "1"}})
        for i, r in enumerate(rows)
    ]
    got = sides(split_rows(rows, SplitConfig(), site="a", test={"fold": "4"}), 50)
    assert got[:10] == ["train"] * 10
    assert [i for i in range(10, 50) if got[i] == "test"] == list(range(14, 50, 5))
    assert got.count("val") == 8


def test_a_given_split_is_not_drawn_over() -> None:
    names = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [row(i, split=name) for i, name in enumerate(names)]
    assert sides(split_rows(rows, SplitConfig(), site="a", test={}), 10) == names


def test_rows_without_a_side_follow_their_patient() -> None:
    rows = [row(0, patient="p", split="test"), row(1, patient="p")]
    rows += [row(i, patient=f"q{i}") for i in range(2, 20)]
    split = split_rows(rows, SplitConfig(), site="a", test={})
    assert split.test.tolist() == [0, 1]


def test_a_patient_on_two_sides_is_refused_with_all_others() -> None:
    rows = [
        row(0, patient="p", split="train"),
        row(1, patient="p", split="test"),
        row(2, group="g", split="val"),
        row(3, group="g", split="test"),
    ]
    with pytest.raises(InputError) as caught:
        split_rows(rows, SplitConfig(), site="north", test={})
    assert caught.value.problems == [
        "site 'north': patient 'p' is on two sides of the split: row 3 in test, row 2 in train",
        "site 'north': group 'g' is on two sides of the split: row 5 in test, row 4 in val",
    ]


def test_a_test_pattern_may_not_cut_a_patient() -> None:
    rows = [
        Row(id=str(i), image=Path("x"), patient="p", number=i, extra={"fold": str(i)})
        for i in range(2)
    ]
    with pytest.raises(InputError, match="patient 'p' is on two sides"):
        split_rows(rows, SplitConfig(), site="a", test={"fold": "1"})


def test_patients_sharing_a_group_stay_together() -> None:
    for seed in range(20):
        rows = [row(i, patient=f"p{i}", group="g" if i in (3, 7) else "") for i in range(20)]
        got = sides(split_rows(rows, SplitConfig(seed=seed), site="a", test={}), 20)
        assert got[3] == got[7]


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1))])
def test_few_patients(count: int, expected: tuple[int, int, int]) -> None:
    rows = [row(i, patient=f"p{i}") for i in range(count)]
    split = split_rows(rows, SplitConfig(), site="a", test={})
    assert (len(split.train), len(split.val), len(split.test)) == expected


def test_shares_of_zero_draw_nothing() -> None:
    rows = [row(i) for i in range(10)]
    split = split_rows(rows, SplitConfig(val=0, test=0), site="a", test={})
    assert len(split.train) == 10


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 5), st.booleans()), min_size=1, max_size=60
    ),
    st.integers(0, 5),
)
def test_no_patient_or_group_is_ever_parted(people: list[tuple[int, int, bool]], seed: int) -> None:
    rows = [
        row(i, patient=f"p{p}" if known else "", group=f"g{g}" if g else "")
        for i, (p, g, known) in enumerate(people)
    ]
    got = sides(split_rows(rows, SplitConfig(seed=seed), site="a", test={}), len(rows))
    for kind in ("patient", "group"):
        homes: dict[str, set[str]] = {}
        for r, side in zip(rows, got, strict=True):
            if getattr(r, kind):
                homes.setdefault(getattr(r, kind), set()).add(side)
        assert all(len(home) == 1 for home in homes.values())
    assert "train" in got
