"""BYOL's loss, without the angle: the ablation "+CL" of P2 Table 3.

Shape legend: B images, D dimensions of the embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["byol"]


def byol(teacher_z: Tensor, student_z: Tensor) -> Tensor:
    """Mean of 2 - 2 cos between each prediction and its teacher (Grill et al. 2020, Eq. 2).

    Args:
        teacher_z: (B, D); detach it.
        student_z: (B, D), through the predictor.

    Returns:
        A scalar in [0, 4], float32 at least.
    """
    wide = torch.promote_types(teacher_z.dtype, torch.float32)
    a, b = F.normalize(teacher_z.to(wide), dim=1), F.normalize(student_z.to(wide), dim=1)
    return (2 - 2 * (a * b).sum(dim=1)).mean()
