"""Dice + BCE, the loss of every fine-tuning (P1 3.2.1).

Shape legend: B images, C classes (one sigmoid channel each), H and W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["dice_bce"]


def dice_bce(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    pooled: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    """L = L_Dice + L_BCE (P1 3.2.1, the Dice and BCE equations).

    Dice is taken per class and averaged over the classes. Pooled, one Dice is taken over all
    pixels of the batch: steadier with small structures, and an image without foreground does not
    weigh as much as one with. Per image, it is closer to the metric that is reported. In a batch
    without foreground Dice is 1 - epsilon / (sum of p + epsilon), and BCE still pushes every pixel
    down.

    Args:
        logits: (B, C, H, W), before the sigmoid.
        targets: (B, C, H, W) of any dtype in [0, 1]; soft targets are allowed.
        epsilon: Keeps Dice defined (1 in the paper).
        pooled: One Dice over the batch, else the mean over the images' own.
        weights: (B, C, H, W) or broadcastable, >= 0: how much a pixel counts (pseudo-masks and
            their confidence). Weights of one change nothing.

    Returns:
        A scalar >= 0, in float32 at least: sums over a batch of pixels overflow half precision.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    logits, targets = logits.to(wide), targets.to(wide)
    pixels = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = torch.sigmoid(logits)
    over = (0, 2, 3) if pooled else (2, 3)
    if weights is None:
        bce = pixels.mean()
        overlap = (p * targets).sum(over)
        total = p.sum(over) + targets.sum(over)
    else:
        weights = weights.to(wide).expand_as(logits)
        bce = (weights * pixels).sum() / weights.sum().clamp(min=torch.finfo(wide).tiny)
        overlap = (weights * p * targets).sum(over)
        total = (weights * p).sum(over) + (weights * targets).sum(over)
    dice = 1 - (2 * overlap + epsilon) / (total + epsilon)
    return dice.mean() + bce
