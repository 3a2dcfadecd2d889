"""Teacher and student on the hypersphere (P2 2.2): backbone, projector, predictor.

Shape legend: B images, F backbone features, D dimensions of the embedding, H = W pixels.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.classifier import Classifier, share_backbone

__all__ = ["SphereNetwork", "from_classifier"]


def _mlp(wide: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear (P2's code: 2048-4096-256 and 256-4096-256)."""
    return nn.Sequential(
        nn.Linear(wide, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
    )  # fmt: skip


class Embedder(nn.Module):
    """A classifier without its last layer under an MLP: what teacher and student both are."""

    def __init__(self, architecture: str, hidden: int, dimension: int, side: int) -> None:
        super().__init__()
        self.backbone = Classifier(architecture, 0, side)
        self.projector = _mlp(self.backbone.width, hidden, dimension)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, D), of any length."""
        z_BD: Tensor = self.projector(self.backbone.features(images_BCHW))
        return z_BD


class SphereNetwork(nn.Module):
    """Student with a predictor, and the teacher that follows it.

    Three things keep the embedding from collapsing to one point: the student alone has a
    predictor, no gradient flows into the teacher, and the teacher is the student's moving average.
    The teacher is part of the state that crosses: the next round goes on with it.

    Args:
        architecture: Of the backbone, any of timm's names.
        hidden: Width of the MLPs' hidden layer (P2: 4096).
        dimension: D (P2: 256).
        side: H, for backbones built for one size.
    """

    def __init__(self, architecture: str, hidden: int, dimension: int, side: int) -> None:
        super().__init__()
        self.student = Embedder(architecture, hidden, dimension, side)
        self.predictor = _mlp(dimension, hidden, dimension)
        self.teacher = copy.deepcopy(self.student)
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)

    def forward(self, taught_BCHW: Tensor, seen_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides of the loss.

        Args:
            taught_BCHW: (B, 1, H, W), what the teacher sees: the images.
            seen_BCHW: (B, 1, H, W), what the student sees: their reconstructions.

        Returns:
            (B, D) of the teacher, without a graph, and (B, D) of the student's predictor.
        """
        with torch.no_grad():
            teacher_z: Tensor = self.teacher(taught_BCHW)
        student_z: Tensor = self.predictor(self.student(seen_BCHW))
        return teacher_z, student_z

    def embed(self, images_BCHW: Tensor, *, normalise: bool = True) -> Tensor:
        """What images are chosen by: the student's projector, before the predictor.

        Args:
            images_BCHW: (B, 1, H, W), images and reconstructions alike.
            normalise: To unit length (P2 Eq. 2).

        Returns:
            (B, D). In evaluation mode an image's row depends on its batch by rounding at most:
            batches of one size give it the same bits, those of another may not.
        """
        z_BD: Tensor = self.student(images_BCHW)
        return F.normalize(z_BD, dim=1) if normalise else z_BD

    def rehearse(self, images_BCHW: Tensor) -> Tensor:
        """One step's forward pass on any images: what an estimate of memory looks at."""
        teacher_z, student_z = self.forward(images_BCHW, images_BCHW)
        return teacher_z + student_z

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the teacher: t <- decay t + (1 - decay) s, after an optimiser step.

        BatchNorm's statistics are left out: each side's are those of what it has seen.
        """
        for teacher, student in zip(
            self.teacher.parameters(), self.student.parameters(), strict=True
        ):
            teacher.lerp_(student, 1 - decay)

    def trained(self) -> list[nn.Parameter]:
        """What a gradient reaches: student and predictor."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def from_classifier(network: SphereNetwork, classifier_state: Mapping[str, Tensor]) -> None:
    """Start both backbones from a classifier that was trained at the source (P2 2.2).

    Args:
        network: Changed in place; its MLPs stay as they are.
        classifier_state: Of a `Classifier` of the same architecture.
    """
    for embedder in (network.student, network.teacher):
        share_backbone(embedder.backbone, classifier_state)
