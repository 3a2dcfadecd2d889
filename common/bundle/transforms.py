"""The square that the network sees and the way back, on tensors, for MONAI's own pipeline.

The same geometry as `clients.data.preprocess`, without a library that reads images: zeros right and
below to a square, one antialiased bilinear resizer, and rounding to whole grey levels. The way back
is bilinear on probabilities, so that a mask fits its image to the pixel.
"""

from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Masks", "Squares", "labels", "restore", "square"]


def square(image_1HW: Tensor, side: int) -> Tensor:
    """Grey levels 0..255 of any size to (1, S, S) in [0, 1]."""
    image = torch.as_tensor(image_1HW).float()
    height, width = image.shape[-2:]
    longer = max(height, width)
    padded = F.pad(image, (0, longer - width, 0, longer - height))
    if longer != side:
        padded = F.interpolate(padded[None], size=(side, side), mode="bilinear", antialias=True)[0]
    return padded.round().clamp(0, 255) / 255


def restore(pred_CSS: Tensor, height: int, width: int) -> Tensor:
    """Probabilities on the square back to (C, H, W) of the image they are of."""
    longer = max(height, width)
    pred = torch.as_tensor(pred_CSS)
    if pred.shape[-1] != longer:
        pred = F.interpolate(pred[None], size=(longer, longer), mode="bilinear", antialias=True)[0]
    return pred[:, :height, :width]


def labels(pred_CHW: Tensor, threshold: float) -> Tensor:
    """Class numbers (1, H, W) uint8: 0 background, k the likeliest class k at or above threshold.

    Of two equally likely classes the lower one keeps the pixel. A single class becomes 255, so that
    a viewer shows it.
    """
    best, index = pred_CHW.max(dim=0, keepdim=True)
    numbers = torch.where(best >= threshold, index + 1, 0)
    return (numbers * (255 if len(pred_CHW) == 1 else 1)).to(torch.uint8)


class Squares:
    """MONAI's dictionary before the network: key `image` becomes its square.

    MONAI reads pictures as (1, W, H); the network was trained on rows and columns as they are seen.
    Key `original` keeps the height and width that the mask has to fit.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """(1, W, H) grey levels 0..255 to (1, S, S) in [0, 1]."""
        image = data["image"]
        plane = _plain(image).transpose(-1, -2)
        meta = dict(getattr(image, "meta", {}))
        return {
            **data,
            "image": MetaTensor(square(plane, self.side), meta=meta),
            "original": torch.tensor(plane.shape[-2:]),
        }


class Masks:
    """MONAI's dictionary after the network: key `mask` is the mask in the image's own geometry.

    It is (1, W, H) again, as MONAI's writers want it.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Probabilities `pred` (C, S, S) to `mask` (1, W, H) uint8; `pred` is restored too."""
        height, width = (int(number) for number in data["original"])
        full = restore(_plain(data["pred"]), height, width).transpose(-1, -2)
        meta = dict(getattr(data["image"], "meta", {}))
        return {**data, "pred": full, "mask": MetaTensor(labels(full, self.threshold), meta=meta)}


def _plain(value: Any) -> Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else torch.as_tensor(value)
