"""Scores of single images, against plain loops."""

import math

import numpy as np
import pytest
from scipy import stats
from skactiveml.base import SkactivemlClassifier
from skactiveml.pool import GreedyBALD, uncertainty_scores

from clients.strategies.pointwise import score_bald, score_entropy, score_lfosa, score_random
from tests.clients.strategies.pools import pool_of

DRAW = np.random.default_rng(3)


def test_random_leaves_it_to_the_hashes() -> None:
    assert score_random(pool_of(DRAW.normal(size=(5, 2)))).tolist() == [0.0] * 5


def test_entropy() -> None:
    pool = pool_of(logits=np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [2000.0, 0.0, -2000.0]]))
    found = score_entropy(pool)
    assert found == pytest.approx([-stats.entropy(p) for p in pool.probabilities])
    assert found[0] == pytest.approx(-math.log(3))
    assert found[2] == 0.0


def test_bald_against_a_loop() -> None:
    passes = DRAW.dirichlet(np.ones(3), (6, 4))
    asked = []

    def dropout(samples: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        asked.append(samples)
        return passes

    found = score_bald(pool_of(logits=np.zeros((4, 3)), dropout=dropout, dropout_samples=6))
    assert asked == [6]
    for image in range(4):
        mean = [sum(passes[t, image, c] for t in range(6)) / 6 for c in range(3)]
        total = -sum(p * math.log(p) for p in mean)
        each = [-sum(p * math.log(p) for p in passes[t, image]) for t in range(6)]
        assert found[image] == pytest.approx(-(total - sum(each) / 6))


def test_bald_is_zero_where_passes_agree_and_ln_2_where_they_are_sure_and_disagree() -> None:
    agree = np.full((2, 1, 2), [0.3, 0.7])
    differ = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    both = np.concatenate([agree, differ], axis=1)
    found = score_bald(pool_of(logits=np.zeros((2, 2)), dropout=lambda samples: both))
    assert found == pytest.approx([0.0, -math.log(2)])


def test_they_are_the_librarys_own_and_rank_as_its_strategies_do() -> None:
    passes = DRAW.dirichlet(np.ones(3), (8, 60))
    pool = pool_of(logits=DRAW.normal(size=(60, 3)), dropout=lambda samples: passes)
    kept = passes.copy()
    bald = score_bald(pool)
    assert (passes == kept).all()
    places, none = np.arange(60.0)[:, None], np.full(60, np.nan)
    _, told = GreedyBALD(sample_predictions_method_name="sampled").query(
        places, none, Sampled(passes, [0, 1, 2]).fit(places, none),
        fit_ensemble=False, batch_size=60, return_utilities=True,
    )  # fmt: skip
    assert bald == pytest.approx(-told[0], abs=1e-6)
    assert np.argsort(bald).tolist() == np.argsort(-told[0]).tolist()
    # One image's score is the same whoever is beside it.
    half = pool_of(logits=pool.logits[:30], dropout=lambda samples: passes[:, :30])
    assert score_bald(half).tolist() == bald[:30].tolist()
    assert score_entropy(half).tolist() == score_entropy(pool)[:30].tolist()
    wanted = uncertainty_scores(pool.probabilities, method="entropy")
    assert score_entropy(pool).tolist() == (-wanted).tolist()


class Sampled(SkactivemlClassifier):  # type: ignore[misc]
    """A classifier that says what it was given, pass by pass."""

    def __init__(self, passes: np.ndarray, classes: list[int]) -> None:
        super().__init__(classes=classes)
        self.passes = passes

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: object = None) -> "Sampled":
        self.classes_ = np.array(self.classes)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        mean: np.ndarray = self.passes.mean(axis=0)
        return mean

    def sampled(self, X: np.ndarray) -> np.ndarray:
        return self.passes.copy()


def test_lfosa_takes_the_confident_ones_of_each_class_first() -> None:
    """Two groups of activations in each class: the groups are told apart by the class's own."""
    low, high = DRAW.normal(2, 0.2, 30), DRAW.normal(6, 0.2, 30)
    benign = np.column_stack([np.concatenate([low, high]), np.zeros(60)])
    malignant = np.column_stack([np.zeros(60), np.concatenate([low, high]) + 100])
    found = score_lfosa(pool_of(logits=np.concatenate([benign, malignant])))
    sure = np.tile(np.repeat([False, True], 30), 2)
    assert found[sure] == pytest.approx(np.full(60, -1), abs=0.01)
    assert found[~sure] == pytest.approx(np.zeros(60), abs=0.01)


def test_lfosa_is_the_posterior_of_the_fitted_mixture() -> None:
    """Bayes' rule by hand, over moments that the posteriors themselves imply (a fixed point)."""
    values = np.concatenate([DRAW.normal(1, 0.5, 200), DRAW.normal(3, 0.7, 200)])
    values = values[values > 0]
    upper = -score_lfosa(pool_of(logits=np.column_stack([values, values - 50])))
    density = []
    for weight in (upper, 1 - upper):
        mean = np.average(values, weights=weight)
        spread = math.sqrt(np.average((values - mean) ** 2, weights=weight))
        density.append(weight.mean() * stats.norm.pdf(values, mean, spread))
    assert upper == pytest.approx(density[0] / sum(density), abs=0.05)


@pytest.mark.parametrize("logits", [[[3.0, 0.0]], [[3.0, 0.0]] * 4, [[3.0, 0.0], [0.0, 1.0]]])
def test_a_class_with_one_activation_says_nothing(logits: list[list[float]]) -> None:
    assert score_lfosa(pool_of(logits=np.array(logits))).tolist() == [-0.5] * len(logits)


def test_lfosa_reproduces() -> None:
    logits = DRAW.normal(size=(50, 3))
    assert np.array_equal(score_lfosa(pool_of(logits=logits)), score_lfosa(pool_of(logits=logits)))
