"""One member of a bundle's network: its logits and its feature in one pass.

Shape legend: B images, S the model's side, D features.
"""

from typing import cast

from torch import Tensor, nn

from common.models.branches import SegmentationModel
from common.models.classifier import Classifier
from common.models.transunet import TransUNet


def logits_and_feature(member: nn.Module, images_B1SS: Tensor) -> tuple[Tensor, Tensor]:
    """A member's logits and its encoder's feature; only somebody's own model encodes twice.

    Args:
        member: A TransUNet, a classifier, somebody's own model, or one of these wrapped.
        images_B1SS: In [0, 1].

    Returns:
        Logits (B, C, S, S), of a classifier (B, C); features (B, D).
    """
    if isinstance(member, TransUNet):
        encoded = member.encode(images_B1SS)
        return member.head(member.decode(encoded)), encoded.tokens_BND.mean(dim=1)
    if isinstance(member, Classifier):
        feature_BD = member.features(images_B1SS)
        return member.head(feature_BD), feature_BD
    own = getattr(member, "logits_and_feature", None)
    if own is not None:
        return own(images_B1SS)  # type: ignore[no-any-return]
    return member(images_B1SS), cast(SegmentationModel, member).feature(images_B1SS)
