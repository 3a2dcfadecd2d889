import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from clients.representation import (
    TABLE_COLUMNS,
    Probe,
    Representation,
    Retrieval,
    auroc,
    balanced_accuracy,
    linear_probe,
    retrieve,
    summarise,
    tabulate,
)


def slow_retrieval(
    features: np.ndarray, video: np.ndarray, frame: np.ndarray, gap: int
) -> list[tuple[float, float]]:
    """Query by query, frame by frame, as the words say it."""
    answers = []
    for q in range(len(features)):
        searched = []
        for g in range(len(features)):
            same = video[g] == video[q] and video[q] != -1
            if g == q or (same and abs(int(frame[g]) - int(frame[q])) < gap):
                continue
            cosine = float(
                features[q]
                @ features[g]
                / np.linalg.norm(features[q])
                / np.linalg.norm(features[g])
            )
            searched.append((-round(cosine * 1e6), bool(same)))
        searched.sort()  # False before True: among equals the other videos' frames come first
        found, total = 0, 0.0
        for rank, (_, same) in enumerate(searched, start=1):
            if same:
                found += 1
                total += found / rank
        answers.append((float(searched[0][1]), total / found) if found else (math.nan, math.nan))
    return answers


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 12)), min_size=2, max_size=24),
    st.integers(0, 8),
    st.integers(0, 5),
)
def test_retrieval_is_what_the_words_say(
    places: list[tuple[int, int]], gap: int, seed: int
) -> None:
    video, frame = (np.array(column, np.int64) for column in zip(*places, strict=True))
    # Whole numbers, so that equal cosines happen.
    features = np.random.default_rng(seed).integers(1, 4, (len(places), 3)).astype(float)
    found = retrieve(features, video, frame, exclusion_gap=gap)
    expected = np.array(slow_retrieval(features, video, frame, gap))
    np.testing.assert_allclose(found.recall_at_1, expected[:, 0])
    np.testing.assert_allclose(found.average_precision, expected[:, 1])


def test_the_gap_is_strict_and_takes_out_the_own_video_alone() -> None:
    # Two videos on a line; frames 0, 4, 8. With gap 4 frame 4 of the own video is still searched.
    video, frame = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 4, 8, 0, 4, 8])
    angle = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert retrieve(features, video, frame, exclusion_gap=4).recall_at_1.tolist() == [1.0] * 6
    # With gap 5 the middle frames lose both neighbours and are no queries.
    answers = retrieve(features, video, frame, exclusion_gap=5).recall_at_1
    assert np.isnan(answers[[1, 4]]).all()
    assert answers[[0, 2, 3, 5]].tolist() == [1.0] * 4


def test_a_collapsed_encoder_earns_nothing() -> None:
    video = np.repeat(np.arange(4), 5)
    frame = np.tile(np.arange(5) * 10, 4)
    features = np.ones((20, 8)) + np.random.default_rng(0).normal(size=(20, 8)) * 1e-9
    found = retrieve(features, video, frame, exclusion_gap=5)
    assert found.recall_at_1.max() == 0
    assert found.average_precision.max() < 0.25


def test_frames_without_a_video_are_searched_but_are_no_queries() -> None:
    video, frame = np.array([-1, -1, 0, 0]), np.array([-1, -1, 0, 20])
    features = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = retrieve(features, video, frame, exclusion_gap=15)
    assert np.isnan(found.recall_at_1[:2]).all()
    assert found.recall_at_1[2:].tolist() == [0.0, 1.0]


def separable(patients: int = 6, frames: int = 5) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Features whose first direction tells the classes; patients alternate between them."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(patients), frames)
    labels = ["linear" if p % 2 else "convex" for p in patient]
    features = rng.normal(size=(len(patient), 4))
    features[:, 0] += np.where(patient % 2, 4.0, -4.0)
    return features, labels, patient


def test_the_probe_reads_what_is_there_and_names_its_classes() -> None:
    features, labels, patient = separable()
    probe = linear_probe(features, labels, patient)
    assert probe is not None
    assert probe.classes == ("convex", "linear")
    assert probe.truth.tolist() == [label == "linear" for label in labels]
    assert auroc(probe, patient).mean == 1
    assert balanced_accuracy(probe, patient).mean == 1


def test_the_probe_never_sees_the_patient_it_judges() -> None:
    # A direction of its own for every patient, nothing in common: only a leak could be right.
    labels = ["a", "b"] * 4
    patient = np.arange(8)
    probe = linear_probe(np.repeat(np.eye(8), 6, axis=0), np.repeat(labels, 6).tolist(),
                         np.repeat(patient, 6))  # fmt: skip
    assert probe is not None
    estimate = balanced_accuracy(probe, np.repeat(patient, 6))
    assert estimate.mean <= 0.5


@pytest.mark.parametrize(
    "labels",
    [
        ["convex"] * 6,
        ["convex"] * 4 + ["linear"] * 2,  # both linear frames are one patient's
        ["a", "a", "b", "b", "c", "c"],
        ["a", "a", "b", "b", "", ""],
    ],
)
def test_no_probe_where_the_labels_allow_none(labels: list[str]) -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    assert linear_probe(features, labels, np.array([0, 0, 1, 1, 2, 2])) is None


def noisy_probe() -> tuple[Probe, np.ndarray]:
    rng = np.random.default_rng(3)
    patient = rng.integers(0, 9, 80)
    truth = (patient % 3 == 0) ^ (rng.random(80) < 0.1)  # some patients have both classes
    decision = np.round(rng.normal(size=80) + truth, 1)  # rounded: ties happen
    return Probe(("a", "b"), truth, decision), patient


def test_probe_numbers_are_scikit_learns() -> None:
    probe, patient = noisy_probe()
    assert auroc(probe, patient).mean == pytest.approx(roc_auc_score(probe.truth, probe.decision))
    assert balanced_accuracy(probe, patient).mean == pytest.approx(
        balanced_accuracy_score(probe.truth, probe.decision > 0)
    )
    assert auroc(probe, patient).n_images == 80
    assert auroc(probe, patient).n_clusters == len(np.unique(patient))


def test_probe_intervals_are_those_of_patients_drawn_by_hand() -> None:
    probe, patient = noisy_probe()
    names = np.unique(patient)
    draws = np.random.default_rng(5).multinomial(
        len(names), np.full(len(names), 1 / len(names)), 150
    )
    areas, balanced = [], []
    for times in draws:
        chosen = np.concatenate(
            [np.tile(np.flatnonzero(patient == p), n) for p, n in zip(names, times, strict=True)]
        )
        truth, decision = probe.truth[chosen], probe.decision[chosen]
        if truth.all() or not truth.any():
            continue
        areas.append(roc_auc_score(truth, decision))
        balanced.append(balanced_accuracy_score(truth, decision > 0))
    for measure, by_hand in ((auroc, areas), (balanced_accuracy, balanced)):
        estimate = measure(probe, patient, samples=150, seed=5)
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx(
            tuple(np.percentile(by_hand, [2.5, 97.5]))
        )
        assert estimate.variance == pytest.approx(np.var(by_hand, ddof=1))


def two_arms() -> tuple[dict[str, Representation], np.ndarray]:
    features, labels, patient = separable(8, 6)
    video, frame = patient, np.tile(np.arange(6) * 10, 8)
    rng = np.random.default_rng(1)
    good = features + np.eye(8, 4)[patient] * 9 + rng.normal(size=features.shape) * 0.1
    arms = {
        name: Representation(
            retrieve(values, video, frame, exclusion_gap=15), linear_probe(values, labels, patient)
        )
        for name, values in (("contrastive", good), ("untrained", rng.normal(size=good.shape)))
    }
    return arms, patient


def test_what_a_site_says() -> None:
    arms, patient = two_arms()
    flat = summarise(arms, patient, main="contrastive", samples=200)
    metrics = ("recall_at_1", "map", "probe_balanced_accuracy", "probe_auroc")
    assert {tuple(name.split(".")[:2]) for name in flat} == {
        *((arm, metric) for arm in arms for metric in metrics),
        *(("contrastive~untrained", metric) for metric in metrics[:2]),
    }
    own = arms["contrastive"].retrieval
    assert flat["contrastive.map.mean"] == pytest.approx(np.nanmean(own.average_precision))
    assert flat["contrastive.recall_at_1.n_images"] == np.isfinite(own.recall_at_1).sum()
    assert flat["contrastive.recall_at_1.n_patients"] == 8
    assert flat["contrastive~untrained.recall_at_1.difference"] == pytest.approx(
        flat["contrastive.recall_at_1.mean"] - flat["untrained.recall_at_1.mean"]
    )
    assert flat["contrastive.probe_auroc.mean"] > flat["untrained.probe_auroc.mean"]


def test_nothing_to_retrieve_says_nothing_of_retrieval() -> None:
    unknown = np.full(4, np.nan)
    arms = {"mim": Representation(Retrieval(unknown, unknown), None)}
    assert summarise(arms, np.arange(4), main="mim", samples=100) == {}


def test_the_table_of_frames() -> None:
    arms, patient = two_arms()
    table = tabulate(arms, [f"i{n}" for n in range(48)], patient)
    assert len(table) == 96
    assert set(table[0]) == set(TABLE_COLUMNS)
    assert table[0]["label"] == "convex"
    assert {row["arm"] for row in table} == set(arms)
