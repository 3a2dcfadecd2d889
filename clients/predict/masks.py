"""From the square back to the original frame, to the pixel, and what is measured there.

Legend: S = the model's side; h, w = what was shown to it; H, W = the original frame; C classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.preprocess import resize
from clients.predict.sources import Shot

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Segmented:
    """A frame's result in its original geometry.

    Attributes:
        pred_CHW: Fused probabilities; 0 outside what was shown.
        labels_HW: uint8: 0 background, k class k.
        confidence_HW: How sure the likeliest class is, in [0, 1]; 1 outside what was shown.
    """

    pred_CHW: Plane
    labels_HW: NDArray[np.uint8]
    confidence_HW: Plane


def full_size(plane_SS: NDArray[Any], height: int, width: int) -> Plane:
    """A plane of the square as (h, w): bilinear, its padding cut off."""
    longer = max(height, width)
    plane = np.ascontiguousarray(plane_SS, dtype=np.float32)
    shown: Plane = resize(plane, longer)[:height, :width]
    return shown


def label_plane(pred_CHW: Plane, threshold: float) -> NDArray[np.uint8]:
    """Class numbers: 0 below the threshold, else the likeliest class; of two equal the lower."""
    best = pred_CHW.max(axis=0)
    return np.where(best >= threshold, pred_CHW.argmax(axis=0) + 1, 0).astype(np.uint8)


def entropy_confidence(pred: NDArray[Any]) -> Plane:
    """1 - H(p) / ln 2, in [0, 1]; as `common.fusion.confidence_map`, in numpy."""
    p = np.clip(pred.astype(np.float32), 0.0, 1.0)
    q = 1 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(p * np.log(p)) - np.nan_to_num(q * np.log(q))
    sure: Plane = np.clip(1 - entropy / np.float32(np.log(2)), 0.0, 1.0).astype(np.float32)
    return sure


def segment(pred_CSS: Plane, shot: Shot, threshold: float) -> Segmented:
    """Bring fused probabilities back to the frame that they are of."""
    height, width = shot.grey_hw.shape
    shown = np.stack([full_size(plane, height, width) for plane in pred_CSS])
    place = slice(shot.top, shot.top + height), slice(shot.left, shot.left + width)
    pred = np.zeros((len(shown), shot.height, shot.width), np.float32)
    pred[(slice(None), *place)] = shown
    sure = np.ones((shot.height, shot.width), np.float32)
    sure[place] = entropy_confidence(shown).min(axis=0)
    return Segmented(pred, label_plane(pred, threshold), sure)


def areas(labels_HW: NDArray[np.uint8], classes: int) -> list[int]:
    """Pixels of each class."""
    counts = np.bincount(labels_HW.ravel(), minlength=classes + 1)
    return [int(count) for count in counts[1 : classes + 1]]
