"""The angular contrastive loss on the hypersphere (P2 2.2, Eq. 2-3).

Shape legend: B images, D dimensions of the embedding.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Form", "angles", "angular_contrastive"]

Form = Literal["(m*theta)^2", "m*theta^2", "theta+m"]


def angles(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """Angle between each vector and its partner, 2 atan2(|a - b|, |a + b|) of the unit vectors.

    The arc cosine of a dot product loses half of its digits near 0 and has no finite slope at
    either end. This form keeps both: the slope at exactly 0 and pi, where no direction is to be
    preferred, is 0.

    Args:
        a_BD: (B, D), of any length.
        b_BD: (B, D), paired with the first.

    Returns:
        (B,) in [0, pi], float32 at least.
    """
    wide = torch.promote_types(a_BD.dtype, torch.float32)
    a, b = F.normalize(a_BD.to(wide), dim=1), F.normalize(b_BD.to(wide), dim=1)
    apart = torch.linalg.vector_norm(a - b, dim=1)
    together = torch.linalg.vector_norm(a + b, dim=1)
    return 2 * torch.atan2(apart, together)


def angular_contrastive(
    teacher_z: Tensor, student_z: Tensor, *, m: float = 4.0, form: Form = "(m*theta)^2"
) -> Tensor:
    """Mean angular loss over pairs (P2 Eq. 3).

    Each student embedding meets its own image's teacher embedding only: P2's code averages over
    all B x B pairs, which merely contracts the sphere. The gradient flows into whatever is not
    detached; detach the teacher (stop-gradient), or the two collapse together.

    Args:
        teacher_z: (B, D), of the images.
        student_z: (B, D), of the same images' reconstructions, through the predictor.
        m: Angular scaling factor (P2 Eq. 3: 4).
        form: `(m*theta)^2` is Eq. 3, the mean of (m theta)^2. `m*theta^2` scales the squared angle
            by m and not by m^2. `theta+m` reads m as the margin of the face recognition
            literature, the mean of (theta + m)^2: its pull stays at 2 m however small the angle.

    Returns:
        A scalar >= 0, float32 at least. Unchanged by the embeddings' lengths.
    """
    theta_B = angles(teacher_z, student_z)
    match form:
        case "(m*theta)^2":
            losses_B = (m * theta_B).square()
        case "m*theta^2":
            losses_B = m * theta_B.square()
        case "theta+m":
            losses_B = (theta_B + m).square()
    return losses_B.mean()
