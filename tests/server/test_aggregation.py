from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.config.stages import Federation
from server.aggregation import FedAdam, Rule, RunningMean, make_rule

FINITE = st.floats(-1e6, 1e6, width=32)
REPLIES = st.integers(1, 8).flatmap(
    lambda sites: st.tuples(
        hnp.arrays(np.float32, (sites, 5), elements=FINITE),
        hnp.arrays(np.int64, (sites,), elements=st.integers(1, 5000)),
    )
)


def mean_of(values: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    rule = RunningMean({"w": torch.zeros(values.shape[1])}, {})
    for value, weight in zip(values, weights, strict=True):
        rule.add({"w": torch.from_numpy(value)}, float(weight))
    return rule.result()["w"]


def test_three_hospitals_by_hand() -> None:
    # (10 x 1 + 30 x 5 + 60 x 2) / 100 = 2.8; (10 x 0 + 30 x -1 + 60 x 4) / 100 = 2.1
    rule = RunningMean({"w": torch.zeros(2)}, {})
    rule.add({"w": torch.tensor([1.0, 0.0])}, 10)
    rule.add({"w": torch.tensor([5.0, -1.0])}, 30)
    rule.add({"w": torch.tensor([2.0, 4.0])}, 60)
    assert rule.result()["w"].tolist() == pytest.approx([2.8, 2.1], rel=1e-6)


@settings(deadline=None)
@given(REPLIES)
def test_the_running_mean_is_the_mean(replies: tuple[np.ndarray, np.ndarray]) -> None:
    values, weights = replies
    expected = np.average(values.astype(np.float64), axis=0, weights=weights)
    scale = float(np.abs(values).max()) + 1e-6
    got = mean_of(values, weights)
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), expected, rtol=0, atol=1e-6 * scale)


@settings(deadline=None)
@given(REPLIES)
def test_one_reply_and_equal_replies_pass_unchanged(
    replies: tuple[np.ndarray, np.ndarray],
) -> None:
    values, weights = replies
    alone = torch.from_numpy(values[0])
    assert torch.equal(mean_of(values[:1], weights[:1]), alone)
    assert torch.equal(mean_of(np.repeat(values[:1], len(weights), axis=0), weights), alone)


def test_replies_are_used_but_neither_kept_nor_changed() -> None:
    first, second = torch.ones(3), torch.full((3,), 3.0)
    rule = RunningMean({"w": torch.zeros(3)}, {})
    rule.add({"w": first}, 1)
    first.fill_(99)
    rule.add({"w": second}, 1)
    assert second.tolist() == [3.0] * 3
    second.fill_(99)
    assert rule.result()["w"].tolist() == [2.0] * 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 2**53))
def test_counters_add_what_every_site_counted_exactly(counted: list[int], begun: int) -> None:
    start = {"batches": torch.tensor(begun)}
    rule = RunningMean(start, {})
    for count in counted:
        rule.add({"batches": torch.tensor(begun + count)}, 3.0)
    total = rule.result()["batches"]
    assert total.dtype == torch.int64
    assert int(total) == begun + sum(counted)


def test_counters_do_not_explode_over_rounds() -> None:
    count = torch.tensor(0)
    for _ in range(100):
        rule = RunningMean({"batches": count}, {})
        for _site in range(8):
            rule.add({"batches": count + 5}, 1.0)
        count = rule.result()["batches"]
    assert int(count) == 100 * 8 * 5


def test_fedadam_against_plain_numpy(tmp_path: Path) -> None:
    federation = Federation(
        aggregation="fedadam", server_learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3
    )
    rng = np.random.default_rng(0)
    weights = rng.normal(size=6)
    first, second = np.zeros(6), np.zeros(6)
    sent = {"w": torch.from_numpy(weights), "bn.running_mean": torch.zeros(2)}
    state: dict[str, torch.Tensor] = {}
    for _round in range(4):
        replies = weights + rng.normal(size=(3, 6))
        sizes = np.array([5.0, 1.0, 14.0])
        step = np.average(replies, axis=0, weights=sizes) - weights
        first = 0.9 * first + 0.1 * step
        second = 0.99 * second + 0.01 * step**2
        weights = weights + 0.1 * first / (np.sqrt(second) + 1e-3)

        rule = make_rule(federation, sent, state, tmp_path)
        for reply, size in zip(replies, sizes, strict=True):
            statistics = torch.full((2,), float(size))
            rule.add({"w": torch.from_numpy(reply), "bn.running_mean": statistics}, size)
        sent, state = dict(rule.result()), dict(rule.state)
        assert np.allclose(sent["w"].numpy(), weights, rtol=1e-12)
        # Running statistics are no parameters: their plain mean, no step of Adam.
        expected = float((sizes * sizes).sum() / sizes.sum())
        assert sent["bn.running_mean"].tolist() == pytest.approx([expected] * 2)
        assert set(state) == {"first.w", "second.w"}


def test_fedadam_leaves_the_state_it_was_given_alone() -> None:
    federation = Federation(aggregation="fedadam")
    start = {"w": torch.zeros(2)}
    kept = {"first.w": torch.ones(2), "second.w": torch.ones(2)}
    rule = FedAdam(start, kept, federation)
    rule.add({"w": torch.ones(2)}, 1.0)
    rule.result()
    assert kept["first.w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["mean", "fedprox", "fedadam"])
def test_rules_of_a_study(name: str, tmp_path: Path) -> None:
    rule: Rule = make_rule(Federation.model_validate({"aggregation": name}), {}, {}, tmp_path)
    assert isinstance(rule, FedAdam if name == "fedadam" else RunningMean)
