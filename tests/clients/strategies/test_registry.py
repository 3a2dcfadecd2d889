"""Strategies by name; own ones are held to what docs/extending.md says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients.strategies.registry import STRATEGIES, Strategy, check_strategy, strategy_of
from common.config.arms import STRATEGY_ARMS
from common.errors import InputError
from common.plugins import FOLDER_VARIABLE, look_in
from tests.clients.strategies.pools import pool_of

OWN = """
import numpy as np

def score_of(pool):
    return pool.probabilities.max(axis=1)

class Sure:
    def score(self, pool):
        return pool.probabilities.max(axis=1)

class First:
    def choose(self, pool, count):
        return np.arange(count)

class Instance:
    def __call__(self):
        pass
    def score(self, pool):
        return np.zeros(len(pool))
instance = Instance()

class Neither:
    pass
class Both(Sure, First):
    pass
class Scalar:
    def score(self, pool):
        return 0.5
class Lost:
    def score(self, pool):
        return np.full(len(pool), np.nan)
class Words:
    def score(self, pool):
        return np.array(["a"] * len(pool))
class Twice:
    def choose(self, pool, count):
        return np.zeros(count, int)
class Few:
    def choose(self, pool, count):
        return np.arange(count - 1)
class Outside:
    def choose(self, pool, count):
        return np.arange(count) + 1
class Moody:
    def score(self, pool):
        return np.random.default_rng().random(len(pool))
class Labels:
    def score(self, pool):
        return pool.labels
class Broken:
    def __init__(self):
        raise OSError("no such file")
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ownstrategies.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    look_in(tmp_path)
    yield
    sys.modules.pop("ownstrategies", None)


def test_every_arm_has_its_strategy() -> None:
    assert tuple(STRATEGIES) == STRATEGY_ARMS
    pointwise = {name for name, strategy in STRATEGIES.items() if strategy.pointwise}
    assert pointwise == {"random", "entropy", "bald", "lfosa"}
    words = {strategy.federated for strategy in STRATEGIES.values()}
    assert words == {"one threshold over all sites", "per site, by quota"}


@pytest.mark.parametrize("name", ["ownstrategies:Sure", "ownstrategies:First"])
def test_an_own_strategy(name: str) -> None:
    check_strategy(name)
    strategy = strategy_of(name)
    pool = pool_of(logits=np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 3.0]]))
    if strategy.pointwise:
        assert np.argsort(strategy.scores(pool)).tolist() == [1, 0, 2]
    else:
        assert strategy.chosen(pool, 2).tolist() == [0, 1]


def test_an_object_will_do() -> None:
    check_strategy("ownstrategies:instance")
    assert strategy_of("ownstrategies:instance").pointwise


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("entropyy", "is no strategy; there are random, vaal"),
        ("ownstrategies:Missing", "has no 'Missing'"),
        ("ownstrategies:score_of", r"must have score\(pool\) or choose\(pool, count\)"),
        ("ownstrategies:Neither", "must have"),
        ("ownstrategies:Both", "not both"),
        ("ownstrategies:Scalar", r"score gives float64 \(\), not \(12,\) numbers"),
        ("ownstrategies:Lost", "NaN or infinity"),
        ("ownstrategies:Words", "numbers"),
        ("ownstrategies:Twice", "twice"),
        ("ownstrategies:Few", r"choose gives int64 \(0,\), not \(1,\) indices"),
        ("ownstrategies:Outside", "not in the pool"),
        ("ownstrategies:Moody", "in two ways"),
        ("ownstrategies:Labels", "AttributeError"),
        ("ownstrategies:Broken", "OSError: no such file"),
    ],
)
def test_a_broken_promise_is_said(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_strategy(name)


def test_lists_will_do() -> None:
    """Whole numbers and plain lists are numbers too."""
    pool = pool_of(logits=np.zeros((3, 2)))
    assert Strategy("x", score=lambda pool: [3, 1, 2]).scores(pool).tolist() == [3.0, 1.0, 2.0]  # type: ignore[arg-type, return-value]
    assert Strategy("x", choose=lambda pool, n: []).chosen(pool, 0).tolist() == []  # type: ignore[arg-type, return-value]
