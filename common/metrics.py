"""Per-image segmentation metrics, as P1 reports them and a little more.

Every function takes binary masks or probabilities of shape (N, C, H, W) (N images, C classes, one
sigmoid channel each) and gives (N, C) float64: one number an image and class. Thresholding
(probability >= .5) is the caller's; so is averaging, which `common.statistics` does with the
patient as the unit.
"""

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[Any]
"""Binary, (N, C, H, W): bool, or integers where anything but 0 is foreground."""

Scores = NDArray[np.float64]
"""(N, C)."""

_PIXELS = (-2, -1)


def _overlap(prediction: Masks, reference: Masks) -> tuple[Scores, Scores, Scores]:
    """Pixels of the intersection, of the prediction and of the reference, each (N, C)."""
    if prediction.shape != reference.shape:
        raise ValueError(f"masks of shape {prediction.shape} and {reference.shape}")
    p, r = prediction.astype(bool), reference.astype(bool)
    return (
        np.count_nonzero(p & r, axis=_PIXELS).astype(np.float64),
        np.count_nonzero(p, axis=_PIXELS).astype(np.float64),
        np.count_nonzero(r, axis=_PIXELS).astype(np.float64),
    )


def dice(prediction: Masks, reference: Masks, *, smooth: float = 1.0) -> Scores:
    """Dice coefficient (P1's DSC), (2 |P n R| + s) / (|P| + |R| + s), in (0, 1].

    Both empty gives 1; one empty gives s / (pixels of the other + s), close to 0.
    """
    both, p, r = _overlap(prediction, reference)
    return (2.0 * both + smooth) / (p + r + smooth)


def iou(prediction: Masks, reference: Masks, *, smooth: float = 1.0) -> Scores:
    """Intersection over union, (|P n R| + s) / (|P u R| + s), in (0, 1]."""
    both, p, r = _overlap(prediction, reference)
    return (both + smooth) / (p + r - both + smooth)


def hd95(prediction: Masks, reference: Masks) -> Scores:
    """95th percentile Hausdorff distance between the outlines, in pixels of the given masks.

    MONAI's: the larger of the two directed 95th percentiles. Both empty gives 0. One empty has no
    distance; it counts as the image's diagonal, sqrt(H^2 + W^2), so that a missed lesion costs
    more than a misplaced one and the mean stays finite.
    """
    _, p, r = _overlap(prediction, reference)
    distances = np.zeros(p.shape, dtype=np.float64)
    distances[(p == 0) != (r == 0)] = float(np.hypot(*prediction.shape[-2:]))
    outlined = (p > 0) & (r > 0)
    if outlined.any():
        # Three seconds of import that training and planning need not pay.
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI calls its own deprecated argument
            measured = compute_hausdorff_distance(
                prediction.astype(bool)[outlined][:, None],
                reference.astype(bool)[outlined][:, None],
                include_background=True,
                percentile=95,
            )
        distances[outlined] = measured.numpy()[:, 0]
    return distances


def area(masks: Masks) -> Scores:
    """Share of the image that is foreground, in [0, 1]."""
    return np.asarray(masks.astype(bool).mean(axis=_PIXELS), dtype=np.float64)


def agreement(branches: Sequence[Masks]) -> Scores:
    """Mean Dice over all pairs of branches: how far they tell the same story, in (0, 1].

    Needs no reference, so it is what a site without masks can report. High agreement is not
    accuracy: two branches may agree and both be wrong.

    Raises:
        ValueError: With fewer than two branches.
    """
    if len(branches) < 2:
        raise ValueError("agreement needs two branches at least")
    pairs = [dice(a, b) for a, b in combinations(branches, 2)]
    return np.asarray(np.mean(pairs, axis=0), dtype=np.float64)


def confidence(probabilities: NDArray[Any]) -> Scores:
    """Mean over the pixels of 1 - H(p) / ln 2, in [0, 1] (P1 3.2.3's entropy confidence, raw).

    Without the infusion head's min-max, which would make images incomparable. A probability of
    exactly 0 or 1 has entropy 0.
    """
    p = probabilities.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p))
    return np.asarray(1.0 - np.nan_to_num(entropy).mean(axis=_PIXELS), dtype=np.float64)
