"""Augmentation, batched on the device: views for contrast, segmentation and classification.

Shapes: B images, C channels, H = W pixels. All randomness comes from the generator that is given.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """(count,) numbers in [low, high), drawn on the CPU so that every device sees the same."""
    return torch.rand(count, generator=generator) * (high - low) + low


def _warp(images_BCHW: Tensor, theta_B23: Tensor, mode: str) -> Tensor:
    grid = F.affine_grid(theta_B23.to(images_BCHW), list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _contrast(images_BCHW: Tensor, brightness_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Brightness (a factor), then contrast (a factor about the image's mean), kept in [0, 1]."""
    shape = (-1, 1, 1, 1)
    lit = (images_BCHW * brightness_B.to(images_BCHW).view(shape)).clamp(0, 1)
    mean = lit.mean(dim=(1, 2, 3), keepdim=True)
    return ((lit - mean) * contrast_B.to(images_BCHW).view(shape) + mean).clamp(0, 1)


def contrastive_view(
    images_BCHW: Tensor,
    generator: Generator,
    *,
    crop: tuple[float, float] = (0.5, 1.0),
    jitter: float = 0.4,
    jitter_probability: float = 0.8,
) -> Tensor:
    """One random view of each image (P1 3.2.2: both views are augmented).

    Random resized crop (area in `crop`, sides 3/4 to 4/3), horizontal flip, and with
    `jitter_probability` brightness and contrast by up to `jitter`.

    Args:
        images_BCHW: (B, 1, H, W) in [0, 1].
        generator: On the CPU.
        crop: Smallest and largest area, as a share of the image.
        jitter: In [0, 1).
        jitter_probability: In [0, 1].

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    count = len(images_BCHW)
    area = _uniform(count, *crop, generator)
    ratio = torch.exp(_uniform(count, math.log(3 / 4), math.log(4 / 3), generator))
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    x = _uniform(count, -1, 1, generator) * (1 - width)
    y = _uniform(count, -1, 1, generator) * (1 - height)
    flip = (_uniform(count, 0, 1, generator) < 0.5).float() * -2 + 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width * flip, x
    theta[:, 1, 1], theta[:, 1, 2] = height, y
    views = _warp(images_BCHW, theta, "bilinear")
    on = (_uniform(count, 0, 1, generator) < jitter_probability).float()
    brightness = 1 + on * _uniform(count, -jitter, jitter, generator)
    contrast = 1 + on * _uniform(count, -jitter, jitter, generator)
    return _contrast(views, brightness, contrast)


def segmentation_view(
    images_BCHW: Tensor, maps_BCHW: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Each image and its maps under one random flip, affine map, gamma, brightness and contrast.

    Rotation up to 15 degrees, scale .8 to 1.25, shift up to 10 % of the side, horizontal flip at
    p .5; gamma .67 to 1.5, brightness and contrast .75 to 1.25. What comes in from outside is 0.

    Args:
        images_BCHW: (B, 1, H, W) in [0, 1].
        maps_BCHW: (B, C, H, W); masks, or weights that follow the pixels. Nearest neighbour.
        generator: On the CPU.

    Returns:
        The images, and the maps in the same geometry.
    """
    count = len(images_BCHW)
    angle = _uniform(count, -math.pi / 12, math.pi / 12, generator)
    scale = torch.exp(_uniform(count, math.log(0.8), math.log(1.25), generator))
    flip = (_uniform(count, 0, 1, generator) < 0.5).float() * -2 + 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = angle.cos() * scale * flip
    theta[:, 0, 1] = -angle.sin() * scale
    theta[:, 1, 0] = angle.sin() * scale * flip
    theta[:, 1, 1] = angle.cos() * scale
    theta[:, 0, 2] = _uniform(count, -0.2, 0.2, generator)
    theta[:, 1, 2] = _uniform(count, -0.2, 0.2, generator)
    images = _warp(images_BCHW, theta, "bilinear")
    maps = _warp(maps_BCHW, theta, "nearest")
    gamma = torch.exp(_uniform(count, math.log(0.67), math.log(1.5), generator))
    images = images.clamp(1e-6, 1) ** gamma.to(images).view(-1, 1, 1, 1)
    brightness = _uniform(count, 0.75, 1.25, generator)
    contrast = _uniform(count, 0.75, 1.25, generator)
    return _contrast(images, brightness, contrast), maps


def classification_view(
    images_BCHW: Tensor, generator: Generator, *, degrees: float = 15.0
) -> Tensor:
    """One random view of each image: horizontal flip and rotation (P2 3).

    P2 gives no angle; a probe is rarely held further off than the default. What comes in from
    outside is 0, as the padding is.

    Args:
        images_BCHW: (B, 1, H, W) in [0, 1].
        generator: On the CPU.
        degrees: Rotation at most, to either side.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    count = len(images_BCHW)
    limit = math.radians(degrees)
    angle = _uniform(count, -limit, limit, generator)
    flip = (_uniform(count, 0, 1, generator) < 0.5).float() * -2 + 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * flip, -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * flip, angle.cos()
    # Interpolation of values in [0, 1] can leave it by a rounding error.
    return _warp(images_BCHW, theta, "bilinear").clamp(0, 1)
