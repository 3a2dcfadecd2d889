import numpy as np
import pytest

from clients.evaluation import (
    TABLE_COLUMNS,
    Prediction,
    join_scores,
    score_arms,
    score_images,
    summarise,
)
from common import metrics

IMAGES = [f"i{n}" for n in range(12)]
CLUSTERS = np.arange(12) // 2


def reference(classes: int = 1) -> np.ndarray:
    mask = np.zeros((12, classes, 16, 16), np.uint8)
    for n in range(12):
        mask[n, :, 2 : 6 + n // 2, 3:12] = 1
    return mask


def noisy(mask: np.ndarray, share: float, seed: int) -> np.ndarray:
    flipped = np.random.default_rng(seed).random(mask.shape) < share
    return np.where(flipped, 1 - mask, mask) * 0.8 + 0.1


def test_a_site_with_masks() -> None:
    truth = reference()
    good, bad = noisy(truth, 0.02, 0), noisy(truth, 0.2, 1)
    scores = score_arms(
        {"ensemble": Prediction(good, (good, bad)), "lower": Prediction(bad)},
        truth,
        images=IMAGES,
        clusters=CLUSTERS,
        main="ensemble",
    )
    flat = scores.metrics
    by_hand = metrics.dice(good >= 0.5, truth).mean()
    assert flat["ensemble.dice.mean"] == pytest.approx(by_hand)
    assert flat["ensemble.dice.ci_low"] < by_hand < flat["ensemble.dice.ci_high"]
    assert (flat["lower.hd95.n_images"], flat["lower.hd95.n_patients"]) == (12, 6)
    assert flat["ensemble~lower.dice.difference"] == pytest.approx(
        by_hand - flat["lower.dice.mean"]
    )
    assert flat["ensemble~lower.dice.p"] == pytest.approx(2 / 2**6)
    assert flat["ensemble~lower.dice.n"] == 6
    assert flat["ensemble~lower.dice.z"] > 0 > flat["ensemble~lower.hd95.z"]
    arms = {"ensemble", "lower", "ensemble~lower"}
    assert {tuple(name.split(".")[:2]) for name in flat} == {
        (a, m) for a in arms for m in ("dice", "iou", "hd95")
    }
    assert len(scores.table) == 24
    assert tuple(scores.table[0]) == TABLE_COLUMNS
    assert scores.table[1]["agreement"] == ""  # lower is a single model
    assert scores.table[0]["agreement"] != ""


def test_a_site_without_masks_says_what_it_can() -> None:
    good, bad = noisy(reference(), 0.02, 0), noisy(reference(), 0.2, 1)
    scores = score_arms(
        {"ensemble": Prediction(good, (good, bad)), "lower": Prediction(bad)},
        None,
        images=IMAGES,
        clusters=CLUSTERS,
        main="ensemble",
    )
    assert {name.rsplit(".", 1)[0] for name in scores.metrics} == {
        "ensemble.agreement",
        "ensemble.confidence",
        "ensemble.area",
        "lower.confidence",
        "lower.area",
    }
    assert 0 < scores.metrics["ensemble.agreement.mean"] < 1
    assert scores.table[0]["dice"] == ""


def test_classes_stand_beside_their_mean() -> None:
    truth = reference(2)
    p = noisy(truth, 0.1, 3)
    p[:, 1] = 0.0  # the second class is never found
    scores = score_arms(
        {"mim": Prediction(p)},
        truth,
        images=IMAGES,
        clusters=CLUSTERS,
        main="mim",
        classes=("metaphysis", "carpal"),
    )
    flat = scores.metrics
    assert flat["mim.dice@carpal.mean"] < 0.1 < flat["mim.dice@metaphysis.mean"]
    assert flat["mim.dice.mean"] == pytest.approx(
        (flat["mim.dice@carpal.mean"] + flat["mim.dice@metaphysis.mean"]) / 2
    )
    assert [row["class"] for row in scores.table[:2]] == ["metaphysis", "carpal"]
    with pytest.raises(ValueError, match="class names"):
        summarise({"mim": score_images(Prediction(p), truth)}, CLUSTERS, main="mim")


def test_one_patient_gives_means_but_no_interval() -> None:
    p = noisy(reference(), 0.1, 3)
    scores = score_arms(
        {"mim": Prediction(p)},
        reference(),
        images=IMAGES,
        clusters=np.zeros(12, np.int64),
        main="mim",
    )
    assert {name.split(".")[2] for name in scores.metrics} == {"mean", "n_images", "n_patients"}


def test_batches_join_to_the_whole() -> None:
    truth, p = reference(), noisy(reference(), 0.1, 5)
    whole = score_images(Prediction(p, (p, p[::-1])), truth)
    parts = join_scores(
        [
            score_images(Prediction(p[a:b], (p[a:b], p[::-1][a:b])), truth[a:b])
            for a, b in ((0, 5), (5, 12))
        ]
    )
    assert (whole.hd95 == parts.hd95).all()
    assert (whole.agreement == parts.agreement).all()
    assert summarise({"e": whole}, CLUSTERS, main="e") == summarise(
        {"e": parts}, CLUSTERS, main="e"
    )
