"""The confidence-aware infusion head (P1 3.2.3): each pixel listens to the surer branch.

Shape legend: M members (branches), B images, C classes (each its own two-class problem), H and W
pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Confidence",
    "Form",
    "Scope",
    "confidence_map",
    "fusion_weights",
    "infuse",
    "normalised_confidence",
]

Confidence = Literal["entropy", "margin", "mean"] | Callable[[Tensor], Tensor]
Form = Literal["normalised", "paper"]
Scope = Literal["image", "batch"]

STABILISER = 1e-6
# A range this small is rounding, not information: two code paths of one log differ by 1e-7.
CONSTANT = 1e-6


def confidence_map(p: Tensor, kind: Confidence) -> Tensor:
    """How sure a branch is of each pixel, before min-max.

    Args:
        p: (B, C, H, W) probabilities in [0, 1]; exactly 0 and 1 are legal.
        kind: ``"entropy"`` is 1 - H(p) / ln 2, P1's (1) with the entropy of two classes scaled to
            [0, 1]; ``"margin"`` is |2p - 1|, P1's (2); ``"mean"`` is 1 everywhere, P1's (3); or a
            function of ``p`` with a result of its shape, larger = surer.

    Returns:
        (B, C, H, W); the named kinds lie in [0, 1]. Half precision is computed in float32.
    """
    p = p.to(torch.promote_types(p.dtype, torch.float32))
    if callable(kind):
        return kind(p)
    if kind == "entropy":
        q = 1 - p
        return (1 + (torch.xlogy(p, p) + torch.xlogy(q, q)) / math.log(2)).clamp(0.0, 1.0)
    if kind == "margin":
        return (2 * p - 1).abs()
    if kind == "mean":
        return torch.ones_like(p)
    raise ValueError(f"confidence {kind!r} is none of entropy, margin, mean")


def normalised_confidence(p: Tensor, kind: Confidence, scope: Scope = "image") -> Tensor:
    """The confidence map, min-max scaled to [0, 1] per class; a constant map counts as 1.

    Args:
        p: (B, C, H, W) probabilities.
        kind: As for :func:`confidence_map`.
        scope: ``"image"`` scales each image by itself, so that an image's result does not depend
            on its company; ``"batch"`` scales the batch as one, as the paper words it.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    raw = confidence_map(p, kind)
    over = (0, 2, 3) if scope == "batch" else (2, 3)
    low, high = raw.amin(over, keepdim=True), raw.amax(over, keepdim=True)
    spread = high - low
    constant = spread <= CONSTANT
    return torch.where(constant, 1.0, (raw - low) / torch.where(constant, 1.0, spread))


def _members(
    probabilities: Sequence[Tensor], confidence: Confidence, scope: Scope
) -> tuple[Tensor, Tensor]:
    p_MBCHW = torch.stack(list(probabilities))
    p_MBCHW = p_MBCHW.to(torch.promote_types(p_MBCHW.dtype, torch.float32))
    c_MBCHW = torch.stack([normalised_confidence(p, confidence, scope) for p in p_MBCHW])
    return p_MBCHW, c_MBCHW


def infuse(
    probabilities: Sequence[Tensor],
    *,
    confidence: Confidence = "entropy",
    form: Form = "normalised",
    scope: Scope = "image",
) -> Tensor:
    """Fuse the members' probabilities, pixel by pixel (P1 3.2.3).

    ``"normalised"`` is the weighted mean, sum p c / (sum c + 1e-6); where every member is at its
    minimum, the plain mean. ``"paper"`` is the equation as printed, the mean of p c: it shrinks
    every unsure pixel towards background (of two uniformly random members' pixels 3 % pass .5 with
    entropy, 11 % with margin, where half should), and is here to measure that.

    Args:
        probabilities: At least one (B, C, H, W) tensor in [0, 1], one a member; all of one shape.
        confidence: As for :func:`confidence_map`.
        form: See above.
        scope: As for :func:`normalised_confidence`.

    Returns:
        (B, C, H, W) in [0, 1]; foreground where >= .5.
    """
    p_MBCHW, c_MBCHW = _members(probabilities, confidence, scope)
    if form == "paper":
        return (p_MBCHW * c_MBCHW).mean(dim=0)
    if form != "normalised":
        raise ValueError(f"form {form!r} is neither normalised nor paper")
    total = c_MBCHW.sum(dim=0)
    fused = (p_MBCHW * c_MBCHW).sum(dim=0) / (total + STABILISER)
    return torch.where(total <= STABILISER, p_MBCHW.mean(dim=0), fused)


def fusion_weights(
    probabilities: Sequence[Tensor],
    *,
    confidence: Confidence = "entropy",
    scope: Scope = "image",
) -> Tensor:
    """Each member's share of each pixel: the maps of P1 Fig. 6.

    Args:
        probabilities: As for :func:`infuse`.
        confidence: As for :func:`infuse`.
        scope: As for :func:`infuse`.

    Returns:
        (M, B, C, H, W), summing to 1 over the members.
    """
    _, c_MBCHW = _members(probabilities, confidence, scope)
    total = c_MBCHW.sum(dim=0)
    equal = total <= STABILISER
    shares = c_MBCHW / torch.where(equal, 1.0, total)
    return torch.where(equal, 1.0 / len(c_MBCHW), shares)
