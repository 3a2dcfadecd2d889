"""reference: what the site's training images look like, as aggregates, for the study's bundle.

First each member comes once, with its weights: what it says of the site's training and validation
images stays in the site's folder. Then one request without weights: the members are fused, and
means and spreads over five patients at least go back (clients/reference.py), no image's number.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.reference import aggregates, enough, reference_rows
from clients.request import Request, Result
from clients.site import open_site
from common.bundle.arm import all_members, bundle_arm
from common.bundle.ensemble import Ensemble, pixel_confidence
from common.bundle.member import logits_and_feature
from common.bundle.reference import mask_confidence
from common.models.branches import load_shared, segmentation_network
from common.wire.crossing import crossing
from common.wire.vocabulary import REFERENCE_SPREADS


def run(request: Request) -> Result:
    """Look at the images with one member, or (no member named) give the aggregates."""
    return look(request) if request.target else tell(request)


def look(request: Request) -> Result:
    """Keep a member's features and probabilities of the site's images, where there are enough."""
    data = open_site(request.site, request.study)
    if not enough(data, request.site.cohort):
        return Result({})
    network = segmentation_network(request.study)
    load_shared(network, request.weights)
    network.eval()
    features, probabilities = [], []
    with torch.inference_mode():
        for square in data.images(reference_rows(data)):
            image = torch.from_numpy(square)[None, None].float() / 255
            logits, feature_BD = logits_and_feature(network, image)
            features.append(feature_BD[0].float().numpy())
            probabilities.append(logits[0].float().sigmoid().numpy())
    _keep(_file(request, request.target), np.stack(features), np.stack(probabilities))
    return Result({})


def tell(request: Request) -> Result:
    """The site's aggregates; counts of 0 and zeros where too few patients stand behind them."""
    data = open_site(request.site, request.study)
    if not enough(data, request.site.cohort):
        return _nothing(request)
    arm = request.plan.arms[bundle_arm(request.plan)]
    features, branches = [], []
    for member in all_members(arm):
        with np.load(_file(request, member), allow_pickle=False) as kept:
            features.append(kept["features"].astype(np.float64))
            branches.append(torch.from_numpy(kept["probabilities"]))
    head = Ensemble([], arm.infusion)
    confidence = []
    for place in range(len(features[0])):
        pred_BCSS = head.fuse([branch[place : place + 1] for branch in branches])
        sure = pixel_confidence(pred_BCSS)[0].numpy()
        confidence.append(mask_confidence(pred_BCSS[0].numpy(), sure, arm.infusion.threshold))
    found = aggregates(data, np.concatenate(features, axis=1), np.array(confidence))
    spreads = {
        f"reference_{of}_{statistic}": float(getattr(getattr(found, of), statistic))
        for of in ("grey", "feature", "confidence")
        for statistic in ("mean", "sd")
    }
    return Result(
        {"images": found.images, "patients": found.patients, **spreads},
        {
            "reference.grey_mean": _tensor(found.grey_mean_G),
            "reference.grey_covariance": _tensor(found.grey_covariance_GG),
            "reference.feature_mean": _tensor(found.feature_mean_D),
            "reference.feature_sd": _tensor(found.feature_sd_D),
        },
    )


def _nothing(request: Request) -> Result:
    found = crossing(request.study, request.plan, "query", "reference")
    zeros = {spec.name: torch.zeros(spec.shape) for spec in found.up}
    return Result({"images": 0, "patients": 0, **dict.fromkeys(REFERENCE_SPREADS, 0.0)}, zeros)


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _file(request: Request, member: str) -> Path:
    return request.site.folder / "reference" / f"{member.replace('/', '.')}.npz"


def _keep(path: Path, features: NDArray[np.float32], probabilities: NDArray[np.float32]) -> None:
    """Write it in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, features=features, probabilities=probabilities)
    partial.replace(path)
