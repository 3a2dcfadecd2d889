"""Masked image modelling: hide units of the image, score the reconstruction where it was hidden.

P1 3.2.1: 60 % of 32 px units at 224 px (a 7x7 grid) become zero in pixel space, there is no mask
token, and the loss is the mean absolute error over the hidden pixels only.

Shape legend: B images, C channels, H = W pixels, S units along a side; a unit is a square of
whole ViT patches.
"""

import math

import torch
from torch import Tensor

__all__ = ["default_unit_px", "hide", "mask_units", "mim_loss"]

PATCH_PX = 16
WIDE_UNITS_FROM_PX = 192


def default_unit_px(side: int, unit_patches: int | None = None) -> int:
    """Side of a mask unit in px.

    Args:
        side: Side of the image in px.
        unit_patches: ViT patches along a unit; by default 2 from 192 px up (P1's 32 px at 224),
            else 1, so that 112 px has the same 7x7 grid.
    """
    return PATCH_PX * (unit_patches or (2 if side >= WIDE_UNITS_FROM_PX else 1))


def mask_units(
    batch: int, side: int, *, unit: int, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Choose the units to hide, the same number in every image (P1 3.2.1).

    Args:
        batch: Images.
        side: Side of the images in px, a multiple of ``unit``.
        unit: Side of a unit in px (32 at 224, see :func:`default_unit_px`).
        ratio: Share of units to hide, in [0, 1]; their number is rounded up.
        generator: Source of the choice; the mask is made on its device.

    Returns:
        (B, 1, H, W) bool, True = masked.

    Raises:
        ValueError: ``unit`` does not tile ``side``.
    """
    if unit < 1 or side % unit:
        raise ValueError(f"mask units of {unit} px do not tile {side} px")
    across = side // unit
    device = None if generator is None else generator.device
    draws = torch.rand(batch, across * across, generator=generator, device=device)
    # A hair below, so that .6 * 25 units is 15 and not 16 when the product lands above 15.
    count = math.ceil(ratio * across * across - 1e-9)
    ranks = draws.argsort(dim=1, stable=True).argsort(dim=1)
    units_BSS = (ranks < count).view(batch, across, across)
    return units_BSS.repeat_interleave(unit, 1).repeat_interleave(unit, 2).unsqueeze(1)


def hide(
    images_BCHW: Tensor,
    mask_B1HW: Tensor,
    *,
    unit: int = 0,
    noise_ratio: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What the network sees: zeros under the mask, or speckle in some masked units.

    Args:
        images_BCHW: Images in [0, 1].
        mask_B1HW: From :func:`mask_units`.
        unit: The mask's unit in px; needed with ``noise_ratio`` only.
        noise_ratio: Share of the masked units, rounded down, that get multiplicative speckle
            x + x n with n normal, cut to [0, 1], in place of zeros. The paper has 0, its authors'
            code .2. Noisy units count as masked in the loss.
        generator: Source of the choice and of the speckle.

    Returns:
        A new tensor of the images' shape.
    """
    hidden = images_BCHW.masked_fill(mask_B1HW, 0.0)
    if noise_ratio <= 0:
        return hidden
    device = mask_B1HW.device if generator is None else generator.device
    masked_BSS = mask_B1HW[:, 0, ::unit, ::unit]
    draws = torch.rand(masked_BSS.shape, generator=generator, device=device).to(mask_B1HW.device)
    draws = draws.masked_fill(~masked_BSS, 2.0).flatten(1)
    counts = (masked_BSS.flatten(1).sum(dim=1, keepdim=True) * noise_ratio + 1e-6).floor()
    ranks = draws.argsort(dim=1, stable=True).argsort(dim=1)
    noisy_BSS = (ranks < counts).view_as(masked_BSS)
    noisy = noisy_BSS.repeat_interleave(unit, 1).repeat_interleave(unit, 2).unsqueeze(1)
    normal = torch.randn(mask_B1HW.shape, generator=generator, device=device)
    normal = normal.to(images_BCHW.device, images_BCHW.dtype)
    speckled = (images_BCHW + images_BCHW * normal).clamp(0.0, 1.0)
    return torch.where(noisy, speckled, hidden)


def mim_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the masked pixels only (P1 3.2.1, its MAE equation).

    Args:
        prediction: (B, C, H, W); C = 1, the grey image, linear output.
        target: The same shape, the image before hiding.
        mask: (B, 1, H, W) bool, True = masked.

    Returns:
        A scalar, in float32 at least; 0 where nothing is masked.
    """
    wide = torch.promote_types(prediction.dtype, torch.float32)
    error = (prediction.to(wide) - target.to(wide)).abs()
    channels = prediction.shape[1]
    count = mask.sum().clamp(min=1) * channels
    return torch.where(mask, error, torch.zeros_like(error)).sum() / count
