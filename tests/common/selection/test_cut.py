"""The cut by counting equals sorting by (score, hash, site, id), whatever the scores."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.selection import select
from common.selection.cut import (
    ROUNDS,
    Cut,
    Keys,
    budget_of,
    chosen,
    open_cut,
    ranking,
    score_words,
    tie_words,
)
from tests.common.selection.federation import choose, find_cut

NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, -1e300, 2.5, math.inf, -math.inf]),
    st.floats(allow_nan=False),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(NUMBERS, st.integers(0, 5)), max_size=8), min_size=1, max_size=7
    ).filter(any),
    st.lists(st.sampled_from([0.01, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0]), min_size=1, unique=True),
)
def test_the_cut_is_what_sorting_gives(sites: Any, alphas: list[float]) -> None:
    """Few digests and few scores: many keys are equal to the last bit, in one site and over all."""
    keys, rows = {}, []
    for place, images in enumerate(sites):
        digests = [f"image {digest}" for _, digest in images]
        scores = np.array([value for value, _ in images], np.float64)
        keys[f"site {place}"] = Keys(score_words(scores), digests, "study")
        words = tie_words("study", digests).tolist()
        rows += [
            (value, word, place, row)
            for row, ((value, _), word) in enumerate(zip(images, words, strict=True))
        ]
    found, rounds = choose(keys, alphas)
    assert rounds <= ROUNDS
    for alpha in alphas:
        wanted = sorted(rows)[: math.ceil(round(alpha * 100) * len(rows) / 100)]
        for place, own in enumerate(found[alpha]):
            assert own.tolist() == sorted(row for _, _, site, row in wanted if site == place)


def test_words_are_ordered_as_the_numbers_are() -> None:
    numbers = [-math.inf, -1e300, -2.0, -1e-310, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 3.0, math.inf]
    words = score_words(np.array(numbers)).tolist()
    assert words == sorted(words)
    assert len(set(words)) == len(words)
    assert score_words(np.array([-0.0])) == score_words(np.array([0.0]))
    with pytest.raises(ValueError, match="NaN"):
        score_words(np.array([math.nan]))


def test_it_ends_early_where_a_cell_ends_at_the_budget() -> None:
    keys = {"a": Keys(score_words(np.array([-5.0, 3.0, 1e9])), ["x", "y", "z"], "study")}
    cut, rounds = find_cut(keys, [1])
    assert rounds == 1
    assert chosen(keys["a"], cut.bounds[0]).tolist() == [0]


def test_hashes_order_equal_scores_and_a_salt_orders_them_anew() -> None:
    digests = [f"{row}" for row in range(200)]
    scores = np.zeros(200)

    def picked(study: str, salt: str = "") -> list[int]:
        keys = {"a": Keys(score_words(scores), digests, study, salt)}
        cut, _ = find_cut(keys, [40])
        return [int(row) for row in chosen(keys["a"], cut.bounds[0])]

    words = tie_words("one", digests)
    assert picked("one") == sorted(np.argsort(words)[:40].tolist())
    assert picked("one") == select(scores, 0.2, ties=words).tolist()
    assert len({tuple(picked("one")), tuple(picked("two")), tuple(picked("one", "s"))}) == 3


def test_budgets_of_nothing_and_of_all() -> None:
    keys = {"a": Keys(score_words(np.array([2.0, 1.0])), ["x", "y"], "study")}
    cut, _ = find_cut(keys, [0, 2])
    assert [chosen(keys["a"], bound).tolist() for bound in cut.bounds] == [[], [0, 1]]
    assert open_cut([0]).finished


def test_a_site_that_holds_small_counts_back_ends_the_search() -> None:
    """With a minimum cohort a cell may turn out empty where the budget ends: it is taken whole."""
    keys = Keys(score_words(np.array([1.0, 1.5, 1.75])), ["x", "y", "z"], "study")
    from common.selection.cut import count_keys, narrow

    cut = open_cut([2])
    first = narrow(cut, {"a": count_keys(keys, cut)})
    assert not first.finished
    second = narrow(first, {"a": np.zeros((1, 4096), np.int64)})
    assert second.finished
    assert chosen(keys, second.bounds[0]).tolist() == [0, 1, 2]


def test_the_state_survives_json_and_the_wire() -> None:
    keys = {"a": Keys(score_words(np.array([-1.0, -1.0])), ["x", "x"], "study"),
            "b": Keys(score_words(np.array([-1.0])), ["x"], "study")}  # fmt: skip
    cut, rounds = find_cut(keys, [2, 3])
    assert rounds == ROUNDS
    assert Cut.from_json(json.loads(json.dumps(cut.to_json()))) == cut
    assert cut.bounds[0].equal == {"a": 2, "b": 0}
    for site, own in keys.items():
        received = Cut.from_words(cut.to_words(site), site)
        for here, there in zip(cut.bounds, received.bounds, strict=True):
            assert chosen(own, here, site).tolist() == chosen(own, there, site).tolist()


@pytest.mark.parametrize(
    ("alpha", "images", "budget"),
    [(0.1, 30, 3), (0.3, 10, 3), (0.2, 11, 3), (1.0, 7, 7), (1e-9, 5, 1), (0.8, 0, 0)],
)
def test_budgets_are_rounded_up_from_alpha_as_written(
    alpha: float, images: int, budget: int
) -> None:
    assert budget_of(alpha, images) == budget


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.01, math.nan])
def test_alpha_lies_in_its_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        select(np.zeros(3), alpha)


def test_select_takes_the_smallest_in_ascending_rows() -> None:
    scores = np.array([3.0, 1.0, 2.0, 1.0, 0.5])
    assert select(scores, 0.5).tolist() == [1, 3, 4]
    assert select(scores, 0.4).tolist() == [1, 4]
    assert select(scores, 0.4, ties=np.array([0, 9, 0, 3, 0], np.uint64)).tolist() == [3, 4]
    assert ranking(scores).tolist() == [4, 1, 3, 2, 0]
