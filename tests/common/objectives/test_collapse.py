import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.objectives import collapse
from common.objectives.collapse import effective_rank, mean_angle, rank_of_moment


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 40), dimension=st.integers(2, 12), seed=st.integers(0, 2**31))
def test_against_plain_loops(count: int, dimension: int, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(count, dimension))
    found = [
        math.acos(max(-1.0, min(1.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))))
        for a, b in itertools.combinations(z, 2)
    ]
    assert mean_angle(z) == pytest.approx(np.mean(found), rel=1e-9)
    singular = np.linalg.svd(z, compute_uv=False)
    shares = singular / singular.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    assert effective_rank(z) == pytest.approx(expected, rel=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(0).normal(size=(50, 5))
    whole = mean_angle(z)
    monkeypatch.setattr(collapse, "BLOCK", 7)
    assert mean_angle(z) == pytest.approx(whole, rel=1e-12)


def test_many_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(0).normal(size=(3000, 16))
    whole = mean_angle(z)
    monkeypatch.setattr(collapse, "AT_MOST", 1000)
    assert mean_angle(z) != whole
    assert mean_angle(z) == pytest.approx(whole, abs=0.01)


def test_a_full_sphere_and_collapsed_ones() -> None:
    rng = np.random.default_rng(0)
    full = rng.normal(size=(800, 8))
    assert mean_angle(full) == pytest.approx(math.pi / 2, abs=0.02)
    assert effective_rank(full) == pytest.approx(8, abs=0.05)
    point = np.ones((800, 8))
    assert mean_angle(point) == pytest.approx(0, abs=1e-6)
    assert effective_rank(point) == pytest.approx(1, abs=1e-5)
    noisy = point + 1e-3 * full
    assert mean_angle(noisy) < 0.01
    assert effective_rank(noisy) < 1.1
    plane = full[:, :2] @ rng.normal(size=(2, 8))
    assert 1.5 < effective_rank(plane) <= 2.0001
    assert effective_rank(np.zeros((3, 4))) == 1


def test_the_rank_comes_from_sums_over_any_split() -> None:
    z = np.random.default_rng(0).normal(size=(90, 6))
    parts = np.split(z, [10, 35])
    moment = sum((part.T @ part for part in parts), np.zeros((6, 6)))
    assert rank_of_moment(moment) == pytest.approx(effective_rank(z), rel=1e-9)
