"""Classifiers as ONE network: what a bundle of a study that chooses images carries.

Shape legend: B images, M members, C classes, S the model's side, D features of all members.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.bundle.member import logits_and_feature


class Judged(NamedTuple):
    """All that classifiers say of a batch.

    Attributes:
        pred_BC: Mean of the members' probabilities; each row adds up to 1.
        branches_BMC: Each member's own.
        features_BD: Each member's feature under its last layer, side by side.
    """

    pred_BC: Tensor
    branches_BMC: Tensor
    features_BD: Tensor


class Classifiers(nn.Module):
    """One classifier, or the mean of several's probabilities.

    Args:
        members: At least one network with the parts of `common.models.classifier.Classifier`.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images_B1SS: Tensor) -> Tensor:
        """Probabilities (B, C) of grey images in [0, 1]."""
        said = [member(images_B1SS).float().softmax(dim=1) for member in self.members]
        return torch.stack(said).mean(dim=0)

    def say(self, images_B1SS: Tensor) -> Judged:
        """The mean, the single probabilities and the features, each image looked at once."""
        branches, features = [], []
        for member in self.members:
            logits, feature_BD = logits_and_feature(member, images_B1SS)
            branches.append(logits.float().softmax(dim=1))
            features.append(feature_BD.float())
        branches_BMC = torch.stack(branches, dim=1)
        return Judged(branches_BMC.mean(dim=1), branches_BMC, torch.cat(features, dim=1))
