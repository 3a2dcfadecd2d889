import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from common import classification
from common.classification import (
    accuracy,
    auroc,
    auroc_of_histogram,
    balanced_accuracy,
    bootstrap,
    confusion,
    macro_auroc,
    score_histogram,
)
from common.statistics import cluster_bootstrap


def drawn(
    images: int = 40, classes: int = 2, seed: int = 0, cells: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities that know a little, true classes (each of them there), patients of a few."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.arange(images) % classes)
    logits = rng.normal(size=(images, classes)) + 0.8 * np.eye(classes)[true]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if cells:
        p = np.floor(p * cells) / cells  # ties, and values that a cell holds exactly
    return p, true, rng.integers(0, images // 3, images)


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(6, 60),
    classes=st.integers(2, 5),
    cells=st.sampled_from([None, 4, 64]),
    seed=st.integers(0, 2**31),
)
def test_against_scikit_learn(images: int, classes: int, cells: int | None, seed: int) -> None:
    p, true, _ = drawn(images, classes, seed, cells)
    said = p.argmax(axis=1)
    counts = confusion(said, true, classes)
    assert counts[1, 0] == sum(1 for t, s in zip(true, said, strict=True) if t == 1 and s == 0)
    assert accuracy(counts) == pytest.approx((said == true).mean())
    assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(true, said))
    each = [roc_auc_score(true == c, p[:, c]) for c in (range(classes) if classes > 2 else [1])]
    assert macro_auroc(p, true) == pytest.approx(np.mean(each))


@settings(max_examples=40, deadline=None)
@given(images=st.integers(4, 200), sites=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_histograms_of_sites_add_up_to_the_pooled_auroc(images: int, sites: int, seed: int) -> None:
    """Exact for scores that are multiples of a cell, whatever the split."""
    p, true, _ = drawn(images, 2, seed, cells=256)
    whose = np.random.default_rng(seed).integers(0, sites, images)
    parts = [score_histogram(p[whose == s], true[whose == s], 256) for s in range(sites)]
    total = np.sum(parts, axis=0)
    assert total.sum() == images
    assert auroc_of_histogram(total) == pytest.approx(roc_auc_score(true, p[:, 1]), abs=1e-12)


def test_histograms_lose_no_more_than_a_cells_ties() -> None:
    p, true, _ = drawn(500)
    exact = roc_auc_score(true, p[:, 1])
    assert auroc_of_histogram(score_histogram(p, true, 256)) == pytest.approx(exact, abs=2e-3)
    assert auroc_of_histogram(score_histogram(p, true, 8)) != pytest.approx(exact, abs=1e-4)
    ends = np.array([[1.0, 0.0], [0.0, 1.0]])
    counts = score_histogram(ends, np.array([0, 1]), 256)
    assert counts[0, 0] == counts[1, 255] == 1
    assert counts.sum() == 2


def test_one_class_alone() -> None:
    p, _, clusters = drawn(10)
    ones = np.ones(10, dtype=np.int64)
    assert np.isnan(auroc(p[:, 1], ones == 1))
    assert np.isnan(macro_auroc(p, ones))
    assert np.isnan(auroc_of_histogram(score_histogram(p, ones, 256)))
    (found,) = bootstrap([p], ones, clusters, samples=50)
    assert np.isnan(found["auroc"].mean)
    assert np.isnan(found["auroc"].ci_low)
    assert found["balanced_accuracy"].mean == found["accuracy"].mean


@pytest.mark.parametrize("classes", [2, 3])
def test_the_bootstrap_is_the_plain_one(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw's images written out, repeated as often as drawn, and given to scikit-learn."""
    p, true, clusters = drawn(36, classes, seed=4, cells=16)
    _, member = np.unique(clusters, return_inverse=True)
    k, samples = member.max() + 1, 60
    times = np.random.default_rng(9).multinomial(k, np.full(k, 1 / k), samples)
    rows: list[list[float]] = []
    for draw in times:
        images = np.concatenate([np.repeat(np.flatnonzero(member == c), n)
                                 for c, n in enumerate(draw)])  # fmt: skip
        t, q = true[images], p[images]
        areas = [
            roc_auc_score(t == c, q[:, c])
            for c in (range(classes) if classes > 2 else [1])
            if 0 < (t == c).sum() < len(t)
        ]
        recalls = [(q.argmax(1) == t)[t == c].mean() for c in np.unique(t)]
        rows.append([float((q.argmax(1) == t).mean()), float(np.mean(recalls)),
                     float(np.mean(areas))])  # fmt: skip
    expected = np.array(rows)
    for at_once in (4_000_000, 36 * 7):
        monkeypatch.setattr(classification, "_CELLS_AT_ONCE", at_once)
        (found,) = bootstrap([p], true, clusters, samples=samples, seed=9)
        for place, name in enumerate(classification.METRICS):
            low, high = np.percentile(expected[:, place], [2.5, 97.5])
            assert found[name].ci_low == pytest.approx(low, abs=1e-12)
            assert found[name].ci_high == pytest.approx(high, abs=1e-12)
            assert found[name].variance == pytest.approx(expected[:, place].var(ddof=1), rel=1e-9)
            assert (found[name].n_images, found[name].n_clusters) == (36, k)


def test_accuracy_has_the_interval_of_the_segmentation_half() -> None:
    p, true, clusters = drawn(50, seed=2)
    (found,) = bootstrap([p], true, clusters, samples=300, seed=5)
    right = (p.argmax(axis=1) == true).astype(np.float64)
    same = cluster_bootstrap(right, clusters, samples=300, seed=5)
    assert found["accuracy"].ci_low == pytest.approx(same.ci_low, abs=1e-12)
    assert found["accuracy"].variance == pytest.approx(same.variance, rel=1e-9)
    assert found["accuracy"].mean == pytest.approx(same.mean)


def test_one_patient_has_no_interval() -> None:
    p, true, _ = drawn(12)
    (found,) = bootstrap([p], true, np.zeros(12, dtype=np.int64), samples=20)
    assert np.isfinite(found["auroc"].mean)
    assert np.isnan(found["auroc"].ci_low)
    assert np.isnan(found["accuracy"].variance)


def test_three_hundred_classifiers_take_seconds() -> None:
    p, true, clusters = drawn(300)
    began = time.process_time()
    found = bootstrap([p] * 33, true, clusters, samples=2000)
    assert time.process_time() - began < 3
    assert found[0] == found[-1]
