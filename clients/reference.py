"""What a site's training images look like, as aggregates: what its frames are later held against.

Means and spreads over many patients leave the site, once, for the bundle; no number of one image.
The spreads are those of held-out patients: distances of images to a mean that they took part in
would be too short, and every new patient would look strange.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from clients.data.site import SiteData
from common.bundle.ensemble import Ensemble, Network, pixel_confidence
from common.bundle.reference import (
    COHORT,
    Floats,
    SiteReference,
    class_confidence,
    describe,
    feature_distance,
    grey_distance,
    log_distance,
    mask_confidence,
    shrunk_covariance,
    spread_of,
)

FOLDS = 4


def reference_rows(data: SiteData) -> NDArray[np.int64]:
    """The images that stand behind a site's aggregates: all but its test images."""
    return np.concatenate([data.split.train, data.split.val]).astype(np.int64)


def enough(data: SiteData, least: int = COHORT) -> bool:
    """Whether as many images and patients stand behind a site's aggregates."""
    rows = reference_rows(data)
    return min(len(rows), len(np.unique(data.clusters[rows]))) >= max(COHORT, least)


def site_reference(data: SiteData, ensemble: Network) -> SiteReference | None:
    """A site's aggregates over its training and validation images; its test images stay out.

    Args:
        data: The site.
        ensemble: With its weights, in eval mode.

    Returns:
        None where fewer than `COHORT` images or patients stand behind it.
    """
    if not enough(data):
        return None
    features_ND, confidence_N = _said(ensemble, data.images(reference_rows(data)))
    return aggregates(data, features_ND, confidence_N)


def aggregates(data: SiteData, features_ND: Floats, confidence_N: Floats) -> SiteReference:
    """Means and spreads over a site's images; it must have enough of them.

    Args:
        data: The site.
        features_ND: Of `reference_rows`, all members' side by side.
        confidence_N: Of the mask or the class.
    """
    rows = reference_rows(data)
    patients = np.unique(data.clusters[rows])
    grey_NG = np.stack([describe(square) for square in data.images(rows)])
    grey_logs, feature_logs = _held_out(grey_NG, features_ND, data.clusters[rows], patients)
    return SiteReference(
        images=len(rows),
        patients=len(patients),
        grey_mean_G=tuple(grey_NG.mean(axis=0).tolist()),
        grey_covariance_GG=tuple(map(tuple, shrunk_covariance(grey_NG, len(patients)).tolist())),
        grey=spread_of(grey_logs),
        feature_mean_D=tuple(features_ND.mean(axis=0).tolist()),
        feature_sd_D=tuple(features_ND.std(axis=0, ddof=1).tolist()),
        feature=spread_of(feature_logs),
        confidence=spread_of(confidence_N),
    )


def _said(ensemble: Network, squares: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Features (N, D) and the confidence of the mask or of the class (N,)."""
    features, confidence = [], []
    with torch.inference_mode():
        for square in squares:
            said = ensemble.say(torch.from_numpy(square)[None, None].float() / 255)
            features.append(said.features_BD[0].double().numpy())
            pred = said[0][0].numpy()
            if isinstance(ensemble, Ensemble):
                sure = pixel_confidence(said[0])[0].numpy()
                confidence.append(mask_confidence(pred, sure, ensemble.infusion.threshold))
            else:
                confidence.append(class_confidence(pred))
    return np.stack(features), np.array(confidence)


def _held_out(
    grey_NG: Floats,
    features_ND: Floats,
    clusters_N: NDArray[np.int64],
    patients: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    """Log distances of every image to the means of the other folds' patients."""
    fold_N = np.searchsorted(patients, clusters_N) % min(FOLDS, len(patients))
    grey, feature = np.empty(len(grey_NG)), np.empty(len(grey_NG))
    for fold in np.unique(fold_N):
        others, own = fold_N != fold, np.flatnonzero(fold_N == fold)
        mean_G = grey_NG[others].mean(axis=0)
        covariance_GG = shrunk_covariance(grey_NG[others], len(np.unique(clusters_N[others])))
        mean_D, sd_D = features_ND[others].mean(axis=0), features_ND[others].std(axis=0, ddof=1)
        for row in own:
            grey[row] = log_distance(grey_distance(grey_NG[row], mean_G, covariance_GG))
            feature[row] = log_distance(feature_distance(features_ND[row], mean_D, sd_D))
    return grey, feature
