"""The study's infusion head over members' probabilities."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from common.config.stages import Infusion
from common.fusion import Confidence, confidence_map, infuse, normalised_confidence
from common.plugins import load_plugin


def confidence_kind(infusion: Infusion) -> Confidence:
    """A named confidence, or somebody's own function of the probabilities."""
    kind = infusion.confidence
    return cast(Confidence, load_plugin(kind, "infusion.confidence") if ":" in kind else kind)


def fuse(probabilities: Sequence[Tensor], infusion: Infusion) -> Tensor:
    """Fuse members' (B, C, H, W) probabilities; a single member passes unchanged."""
    if len(probabilities) == 1:
        return probabilities[0]
    return infuse(
        probabilities,
        confidence=confidence_kind(infusion),
        form=infusion.form,
        scope=infusion.scope,
    )


def pixel_weight(probabilities_BCHW: Tensor, infusion: Infusion) -> Tensor:
    """How much a pixel's pseudo-label counts: the infusion head's confidence, (B, C, H, W).

    The named confidences are taken as they are, in [0, 1]: min-max would call the least sure pixel
    of a sure image worthless. Somebody's own has no known range and is scaled.
    """
    kind = confidence_kind(infusion)
    if isinstance(kind, str):
        return confidence_map(probabilities_BCHW, kind)
    return normalised_confidence(probabilities_BCHW, kind, infusion.scope)
