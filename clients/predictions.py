"""What members say of a site's test images, kept in the site's own folder."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.infusion import fuse
from clients.request import Request
from common.plan import Arm

Places = slice | NDArray[np.int64]


def prediction_file(request: Request, member: str) -> Path:
    """Where a member's probabilities (N, C, H, W) or features (N, D) lie."""
    return request.site.folder / "predictions" / f"{member.replace('/', '.')}.npy"


def keep_prediction(request: Request, array: NDArray[np.float32]) -> None:
    """Write what the request's member says, in one move."""
    path = prediction_file(request, request.target)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def fused_predictions(
    request: Request, arm: Arm, places: Places
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """An arm's fused probabilities and its branches', (n, C, H, W), at places of the test set."""
    members = [
        torch.from_numpy(np.load(prediction_file(request, member), mmap_mode="r")[places].copy())
        for member in arm.members[request.site.name]
    ]
    return fuse(members, arm.infusion).numpy(), [member.numpy() for member in members]
