"""Median, trimmed mean and Krum against plain numpy, and against liars."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from common.config.stages import Federation
from server.aggregation import make_rule
from server.context import StudyStopped

FINITE = st.floats(-1e6, 1e6, width=32)
REPLIES = st.integers(1, 8).flatmap(
    lambda sites: hnp.arrays(np.float32, (sites, 6), elements=FINITE)
)
FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def combined(
    values: np.ndarray, folder: Path, refused: int = 0, **options: Any
) -> dict[str, Tensor]:
    """Replies of one matrix, one counter and one running mean through a rule."""
    start = {
        "w": torch.zeros(2, 2),
        "bn.running_mean": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    rule = make_rule(Federation.model_validate(options), start, {}, folder)
    rule.refused = refused
    for place, value in enumerate(torch.from_numpy(values)):
        rule.add(
            {
                "w": value[:4].reshape(2, 2),
                "bn.running_mean": value[4:],
                "bn.num_batches_tracked": torch.tensor(8 + place),
            },
            float(1 + place),
        )
    found = rule.result()
    assert list(found) == list(start)
    assert not list(folder.iterdir()), "replies stay no longer than their round"
    return dict(found)


@FEW
@given(REPLIES)
def test_the_median_is_numpys(tmp_path: Path, values: np.ndarray) -> None:
    found = combined(values, tmp_path, aggregation="median")
    expected = np.median(values.astype(np.float64), axis=0)
    scale = float(np.abs(values).max()) + 1e-6
    assert np.allclose(found["w"].flatten().numpy(), expected[:4], rtol=0, atol=1e-6 * scale)
    assert np.allclose(found["bn.running_mean"].numpy(), expected[4:], rtol=0, atol=1e-6 * scale)
    counted = sorted(1 + place for place in range(len(values)))
    assert int(found["bn.num_batches_tracked"]) == 7 + counted[(len(counted) - 1) // 2]


@FEW
@given(REPLIES, st.sampled_from([0.1, 0.2, 0.4]))
def test_the_trimmed_mean_by_sorting(tmp_path: Path, values: np.ndarray, share: float) -> None:
    found = combined(values, tmp_path, aggregation="trimmed", trim=share)
    sites = len(values)
    cut = min(math.ceil(share * sites), (sites - 1) // 2)
    expected = np.sort(values.astype(np.float64), axis=0)[cut : sites - cut].mean(axis=0)
    scale = float(np.abs(values).max()) + 1e-6
    assert np.allclose(found["w"].flatten().numpy(), expected[:4], rtol=0, atol=1e-6 * scale)


@FEW
@given(hnp.arrays(np.float32, (6, 6), elements=st.floats(-100, 100, width=32)))
def test_krum_against_plain_loops(tmp_path: Path, values: np.ndarray) -> None:
    found = combined(values, tmp_path, aggregation="krum", byzantine=1)
    w = values[:, :4].astype(np.float64)
    scores = []
    for i in range(6):
        distances = sorted(float(((w[i] - w[j]) ** 2).sum()) for j in range(6) if j != i)
        scores.append(sum(distances[: 6 - 1 - 2]))
    chosen = int(np.argmin(scores))
    assert found["w"].flatten().tolist() == values[chosen, :4].tolist()
    assert int(found["bn.num_batches_tracked"]) == 8 + chosen


@pytest.mark.parametrize("rule", ["median", "trimmed", "krum"])
@pytest.mark.parametrize("lie", [1e6, -1e6, -1.0])
def test_one_liar_of_five_moves_nothing_beyond_the_honest(
    tmp_path: Path, rule: str, lie: float
) -> None:
    honest = np.random.default_rng(3).normal(1.0, 0.1, (4, 6)).astype(np.float32)
    values = np.concatenate([honest[:2], np.full((1, 6), lie, np.float32), honest[2:]])
    found = combined(values, tmp_path, aggregation=rule)["w"].flatten().numpy()
    assert (found >= honest[:, :4].min(axis=0)).all()
    assert (found <= honest[:, :4].max(axis=0)).all()


@pytest.mark.parametrize("rule", ["median", "trimmed", "krum"])
def test_a_single_reply_passes_unchanged(tmp_path: Path, rule: str) -> None:
    values = np.array([[0.1, -7.0, 3e5, 1e-8, 2.0, 4.0]], np.float32)
    found = combined(values, tmp_path, aggregation=rule)
    assert found["w"].flatten().tolist() == values[0, :4].tolist()


def test_krum_says_how_many_it_needs(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped, match=r"byzantine = 2 needs 7 replies, and 5 came"):
        combined(np.zeros((5, 6), np.float32), tmp_path, aggregation="krum", byzantine=2)


def test_what_a_killed_round_left_is_not_counted(tmp_path: Path) -> None:
    start = {"w": torch.zeros(1)}
    federation = Federation(aggregation="median")
    make_rule(federation, start, {}, tmp_path).add({"w": torch.tensor([100.0])}, 1)
    again = make_rule(federation, start, {}, tmp_path)
    again.add({"w": torch.tensor([1.0])}, 1)
    assert again.result()["w"].tolist() == [1.0]


def test_krum_reckons_with_the_bad_replies_that_were_refused(tmp_path: Path) -> None:
    """Of f = 2 one is caught: one more may hide among the six that are left, and needs five."""
    values = np.random.default_rng(5).normal(size=(6, 6)).astype(np.float32)
    w = values[:, :4].astype(np.float64)
    found = combined(values, tmp_path, refused=1, aggregation="krum", byzantine=2)
    scores = []
    for i in range(6):
        distances = sorted(float(((w[i] - w[j]) ** 2).sum()) for j in range(6) if j != i)
        scores.append(sum(distances[: 6 - 1 - 2]))
    assert found["w"].flatten().tolist() == values[int(np.argmin(scores)), :4].tolist()
    with pytest.raises(StudyStopped, match=r"byzantine = 2 needs 7 replies, and 6 came"):
        combined(values, tmp_path, aggregation="krum", byzantine=2)
    with pytest.raises(
        StudyStopped, match=r"1 of them refused as bad, needs 5 replies, and 4 came"
    ):
        combined(values[:4], tmp_path, refused=1, aggregation="krum", byzantine=2)
    # More refused than it was to withstand: none hides, and three are enough.
    combined(values[:3], tmp_path, refused=3, aggregation="krum", byzantine=2)
