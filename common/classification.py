"""How good is a classifier: accuracy, balanced accuracy and AUROC, with intervals over patients.

P2 reports accuracy alone on pools that are two thirds benign, where always saying "benign" reaches
.68. So two figures that do not reward it stand beside it (method.md, "Statistics").

Shape legend: N images, C classes, S scores an image (1 for two classes, else C), K cells of a
histogram. A confusion matrix has the true class in its rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.statistics import Estimate

__all__ = [
    "METRICS",
    "auroc",
    "auroc_of_histogram",
    "balanced_accuracy",
    "bootstrap",
    "confusion",
    "macro_auroc",
    "one_against_rest",
    "score_histogram",
]

METRICS = ("accuracy", "balanced_accuracy", "auroc")

Floats = NDArray[np.float64]

_CELLS_AT_ONCE = 4_000_000
"""Draws x images held at a time, in a few arrays of 32 MB."""


def confusion(
    predicted_N: NDArray[np.integer[Any]], true_N: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """(C, C) counts of images, true class by predicted class."""
    places = true_N.astype(np.int64) * classes + predicted_N
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def accuracy(confusion_CC: NDArray[np.int64]) -> float:
    """Share of the images on the diagonal, in [0, 1]."""
    return float(np.trace(confusion_CC) / confusion_CC.sum())


def balanced_accuracy(confusion_CC: NDArray[np.int64]) -> float:
    """Mean share that is right of each class that occurs, in [0, 1]."""
    of_class = confusion_CC.sum(axis=1)
    there = of_class > 0
    return float((np.diag(confusion_CC)[there] / of_class[there]).mean())


def auroc(scores_N: NDArray[Any], positive_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Returns:
        In [0, 1]; NaN without a positive or without a negative.
    """
    negative = np.sort(scores_N[~positive_N])
    positive = scores_N[positive_N]
    if not len(negative) or not len(positive):
        return float("nan")
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).sum() / (2 * len(negative) * len(positive)))


def one_against_rest(
    probabilities_NC: NDArray[Any], true_N: NDArray[np.integer[Any]]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What AUROC is taken of: (N, S) scores, and (N, S) whether the image is of that class.

    Of two classes the second is the positive one; of more, each stands against the rest.
    """
    classes = probabilities_NC.shape[1]
    chosen = np.array([1]) if classes == 2 else np.arange(classes)
    return probabilities_NC[:, chosen], true_N[:, None] == chosen


def macro_auroc(probabilities_NC: NDArray[Any], true_N: NDArray[np.integer[Any]]) -> float:
    """AUROC of two classes; of more, the mean over each against the rest, of those that occur."""
    scores_NS, positive_NS = one_against_rest(probabilities_NC, true_N)
    found = [auroc(s, p) for s, p in zip(scores_NS.T, positive_NS.T, strict=True)]
    finite = [value for value in found if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def score_histogram(
    probabilities_NC: NDArray[Any], true_N: NDArray[np.integer[Any]], cells: int
) -> NDArray[np.int64]:
    """Counts of scores in equal cells over [0, 1]: all that a pooled AUROC needs to know.

    Args:
        probabilities_NC: (N, C).
        true_N: (N,).
        cells: K.

    Returns:
        (2, K): negatives, positives. Of more than two classes, each image counts once for each
        class against the rest (a micro average).
    """
    scores_NS, positive_NS = one_against_rest(probabilities_NC, true_N)
    places = np.clip((scores_NS.astype(np.float64) * cells).astype(np.int64), 0, cells - 1)
    return np.stack(
        [np.bincount(places[side], minlength=cells) for side in (~positive_NS, positive_NS)]
    )


def auroc_of_histogram(histogram_2K: NDArray[np.int64]) -> float:
    """AUROC from counts; scores that share a cell are ties, and nothing else is lost.

    Args:
        histogram_2K: (2, K), negatives and positives; sites' histograms add up.

    Returns:
        In [0, 1]; NaN without a positive or without a negative.
    """
    negatives, positives = (side.astype(np.float64) for side in histogram_2K)
    pairs = negatives.sum() * positives.sum()
    if not pairs:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def bootstrap(
    cells: Sequence[NDArray[Any]],
    true_N: NDArray[np.integer[Any]],
    clusters_N: NDArray[np.integer[Any]],
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """The three figures of many classifiers on one test set, with intervals over patients.

    As `common.statistics.cluster_bootstrap`, and of the accuracy exactly that: whole clusters are
    drawn with replacement, the same draws for every classifier, and each draw's figure is taken
    anew (percentile interval). A draw without one of two classes has no AUROC, one without any of
    the test set's classes no balanced accuracy; it is left out there.

    Args:
        cells: Each (N, C), one classifier's probabilities.
        true_N: (N,) classes.
        clusters_N: (N,), the patient (or group, or image) of each.
        samples: Draws.
        level: Of the interval, in (0, 1).
        seed: Of the draws.

    Returns:
        For each classifier `METRICS` to its estimate. NaN where undefined.
    """
    _, member_N = np.unique(clusters_N, return_inverse=True)
    clusters = int(member_N.max()) + 1
    drawn: list[list[Floats]] = [[] for _ in cells]
    if clusters > 1:
        rng = np.random.default_rng(seed)
        at_once = max(1, _CELLS_AT_ONCE // len(true_N))
        for start in range(0, samples, at_once):
            count = min(at_once, samples - start)
            times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), count)
            weights_ND = np.ascontiguousarray(times[:, member_N].T, dtype=np.float64)
            for place, probabilities_NC in enumerate(cells):
                drawn[place].append(_weighted(probabilities_NC, true_N, weights_ND))
    return [
        _estimates(probabilities_NC, true_N, clusters, draws, level)
        for probabilities_NC, draws in zip(cells, drawn, strict=True)
    ]


def _estimates(
    probabilities_NC: NDArray[Any],
    true_N: NDArray[np.integer[Any]],
    clusters: int,
    draws: Sequence[Floats],
    level: float,
) -> dict[str, Estimate]:
    counts_CC = confusion(probabilities_NC.argmax(axis=1), true_N, probabilities_NC.shape[1])
    means = (
        accuracy(counts_CC),
        balanced_accuracy(counts_CC),
        macro_auroc(probabilities_NC, true_N),
    )
    tail = 50.0 * (1.0 - level)
    found = {}
    for place, (name, mean) in enumerate(zip(METRICS, means, strict=True)):
        values = np.concatenate([part[place] for part in draws]) if draws else np.empty(0)
        values = values[np.isfinite(values)]
        low = high = variance = float("nan")
        if len(values) > 1:
            low, high = (float(end) for end in np.percentile(values, [tail, 100.0 - tail]))
            variance = float(values.var(ddof=1))
        found[name] = Estimate(mean, low, high, variance, len(true_N), clusters)
    return found


def _weighted(
    probabilities_NC: NDArray[Any], true_N: NDArray[np.integer[Any]], weights_ND: Floats
) -> Floats:
    """(3, draws): the figures where image n counts weights_ND[n, d] times in draw d."""
    classes = probabilities_NC.shape[1]
    right_N = probabilities_NC.argmax(axis=1) == true_N
    of_class_CN = (true_N == np.arange(classes)[:, None]).astype(np.float64)
    total_CD = of_class_CN @ weights_ND
    right_CD = (of_class_CN * right_N) @ weights_ND
    with np.errstate(invalid="ignore", divide="ignore"):
        share_CD = right_CD / total_CD
        balanced = share_CD[total_CD.any(axis=1)].mean(axis=0)
        areas = np.stack(
            [
                _weighted_auroc(scores_N, positive_N, weights_ND)
                for scores_N, positive_N in zip(
                    *(a.T for a in one_against_rest(probabilities_NC, true_N)), strict=True
                )
            ]
        )
        area = np.nansum(areas, axis=0) / np.isfinite(areas).sum(axis=0)
    return np.stack([right_CD.sum(axis=0) / total_CD.sum(axis=0), balanced, area])


def _weighted_auroc(
    scores_N: NDArray[Any], positive_N: NDArray[np.bool_], weights_ND: Floats
) -> Floats:
    """(draws,) AUROC of weighted images; NaN in draws without one of the classes.

    The negatives' weights are summed in order of their scores, once; a positive then reads off how
    much lies below it. Linear in draws x images.
    """
    negative = np.flatnonzero(~positive_N)
    order = negative[np.argsort(scores_N[negative], kind="stable")]
    upto = np.zeros((len(order) + 1, weights_ND.shape[1]))
    np.cumsum(weights_ND[order], axis=0, out=upto[1:])
    positive = np.flatnonzero(positive_N)
    below = np.searchsorted(scores_N[order], scores_N[positive], "left")
    with_ties = np.searchsorted(scores_N[order], scores_N[positive], "right")
    weights = weights_ND[positive]
    area = np.einsum("nd,nd->d", weights, upto[below])
    area += np.einsum("nd,nd->d", weights, upto[with_ties])
    shares: Floats = np.clip(area / (2 * weights.sum(axis=0) * upto[-1]), 0, 1)
    return shares
