"""Linear probing: only a classifier's last layer learns, on features that stand still.

The features are read in evaluation mode, BatchNorm's statistics with them, so nothing under the
last layer changes. Without augmentation they are computed once a round.

Shape legend: N the site's rows, B images, D features, C classes, H = W pixels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clients.augment import classification_view
from clients.classifiers import features_of
from clients.data.site import SiteData
from clients.request import Request
from clients.training import Loss, autocast, draws, to_unit
from common.config.selection import Classify
from common.models.classifier import Classifier


def probe_loss(
    request: Request,
    classifier: Classifier,
    data: SiteData,
    rows: NDArray[np.int64],
    codes_N: NDArray[np.int64],
    settings: Classify,
) -> Loss:
    """Plain cross-entropy of one micro-batch, with a graph through the last layer alone.

    Args:
        request: Its seed drives the augmentation.
        classifier: Put into evaluation mode, and to be left there.
        data: The site's.
        rows: Every row that a batch may hold.
        codes_N: (N,) the label of each of the site's rows.
        settings: Whether images are flipped and rotated.
    """
    compute = request.study.compute
    classifier.eval()
    classifier.requires_grad_(False)
    classifier.last_layer.requires_grad_(True)

    if settings.augmentation:
        generator = draws(request, "augmentation")

        def features(chosen: NDArray[np.int64]) -> Tensor:
            images_B1HW = to_unit(data.images(chosen), compute.device)
            with torch.no_grad(), autocast(compute):
                return classifier.features(classification_view(images_B1HW, generator)).float()

    else:
        order = np.sort(rows)
        known = torch.from_numpy(features_of(classifier, data.images(order), compute))

        def features(chosen: NDArray[np.int64]) -> Tensor:
            return known[np.searchsorted(order, chosen)].to(compute.device)

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        logits_BC = classifier.head(features(chosen))
        targets_B = torch.from_numpy(codes_N[chosen]).to(compute.device)
        return F.cross_entropy(logits_BC, targets_B)

    return loss
