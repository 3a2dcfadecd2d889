"""Pictures of a site's report: images, outlines and maps, as inline SVG. They stay at the site.

An image is embedded once and drawn wherever it is needed; outlines are vector paths over it.
Shapes: C classes, M members (branches), H x W pixels, n images.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from skimage import measure

from common.fusion import Confidence, Scope, fusion_weights, normalised_confidence

REFERENCE_COLOR = "#ffd54a"
CLASS_COLORS = ("#35e0e6", "#ff7ad9", "#b6f05a", "#ff9e57", "#a99bff", "#ffffff")
"""Bright on grey: they lie on ultrasound in light, dark and print alike."""

_measure: Any = measure  # scikit-image carries no types

CONFIDENCE_MAP = "viridis"
WEIGHT_MAP = "cividis"


@dataclass(frozen=True)
class Case:
    """One test image with everything there is to see of it.

    Attributes:
        name: The manifest's id.
        image_HW: uint8.
        reference_CHW: Binary, or None.
        fused_CHW: By arm, probabilities.
        members_CHW: The main arm's branches by name, probabilities; empty for a single model.
        confidence_CHW: Of each of them, min-max scaled as the infusion head does, in [0, 1].
        weights_CHW: Each one's share of each pixel, summing to 1.
    """

    name: str
    image_HW: NDArray[np.uint8]
    reference_CHW: NDArray[Any] | None
    fused_CHW: Mapping[str, NDArray[Any]]
    members_CHW: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    confidence_CHW: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    weights_CHW: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def make_cases(
    names: Sequence[str],
    images_nHW: NDArray[np.uint8],
    reference_nCHW: NDArray[Any] | None,
    fused_nCHW: Mapping[str, NDArray[Any]],
    members_nCHW: Mapping[str, NDArray[Any]],
    *,
    confidence: Confidence = "entropy",
    scope: Scope = "image",
) -> list[Case]:
    """Cases with the infusion head's confidence and weights (P1 Fig. 6).

    Args:
        names: (n,), the manifest's ids.
        images_nHW: The images.
        reference_nCHW: Binary, or None.
        fused_nCHW: By arm, probabilities.
        members_nCHW: The main arm's branches by name; fewer than two have no weights to show.
        confidence: As the study's infusion head has it.
        scope: Of its min-max; "batch" runs over the images given here.
    """
    stack = [torch.from_numpy(np.asarray(p, dtype=np.float32)) for p in members_nCHW.values()]
    sure: dict[str, NDArray[Any]] = {}
    shares: dict[str, NDArray[Any]] = {}
    if len(stack) > 1:
        weights = fusion_weights(stack, confidence=confidence, scope=scope)
        for p, share, name in zip(stack, weights, members_nCHW, strict=True):
            sure[name] = normalised_confidence(p, confidence, scope).numpy()
            shares[name] = share.numpy()
    return [
        Case(
            name=name,
            image_HW=images_nHW[n],
            reference_CHW=None if reference_nCHW is None else reference_nCHW[n],
            fused_CHW={arm: p[n] for arm, p in fused_nCHW.items()},
            members_CHW={member: p[n] for member, p in members_nCHW.items()},
            confidence_CHW={member: p[n] for member, p in sure.items()},
            weights_CHW={member: p[n] for member, p in shares.items()},
        )
        for n, name in enumerate(names)
    ]


def embed(case: Case, key: str) -> Markup:
    """The image as an SVG symbol that `overlay` draws.

    Args:
        case: Whose image.
        key: Unique on the page.
    """
    height, width = case.image_HW.shape
    return Markup(
        f'<image id="{key}" width="{width}" height="{height}" href="{png(case.image_HW)}"/>'
    )


def overlay(
    case: Case,
    key: str,
    *,
    alt: str,
    mask_CHW: NDArray[Any] | None = None,
    reference: bool = False,
) -> Markup:
    """The image with outlines: the mask's solid, a colour a class; the reference's dashed.

    Args:
        case: Whose image; embedded under `key`.
        key: As given to `embed`.
        alt: What the picture shows.
        mask_CHW: Binary, or None.
        reference: Whether to draw the reference's outline, where there is one.
    """
    height, width = case.image_HW.shape
    stroke = max(height, width) / 115
    paths = []
    if reference and case.reference_CHW is not None:
        colors = CLASS_COLORS if len(case.reference_CHW) > 1 else (REFERENCE_COLOR,)
        dash = f' stroke-dasharray="{2.2 * stroke:.2f} {1.5 * stroke:.2f}"'
        paths += _paths(case.reference_CHW, colors, stroke, dash if mask_CHW is not None else "")
    if mask_CHW is not None:
        paths += _paths(mask_CHW, CLASS_COLORS, stroke, "")
    return Markup(
        f'<svg class="picture" role="img" aria-label="{Markup.escape(alt)}" '
        f'viewBox="0 0 {width} {height}"><use href="#{key}"/>{"".join(paths)}</svg>'
    )


def color_map(map_CHW: NDArray[Any], *, name: str, alt: str) -> Markup:
    """A map in [0, 1] in false colour; several classes as their mean.

    Args:
        map_CHW: The map.
        name: Of a matplotlib colour map.
        alt: What the picture shows.
    """
    map_HW = np.clip(np.asarray(map_CHW, dtype=np.float64).mean(axis=0), 0.0, 1.0)
    rgb = (matplotlib.colormaps[name](map_HW)[..., :3] * 255).round().astype(np.uint8)
    height, width = map_HW.shape
    return Markup(
        f'<svg class="picture" role="img" aria-label="{Markup.escape(alt)}" '
        f'viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" '
        f'href="{png(rgb)}"/></svg>'
    )


def ramp(name: str) -> str:
    """A colour map as a CSS gradient, from 0 to 1."""
    colors = matplotlib.colormaps[name](np.linspace(0, 1, 9))
    stops = [matplotlib.colors.to_hex(color) for color in colors]
    return f"linear-gradient(to right, {', '.join(stops)})"


def png(pixels: NDArray[np.uint8]) -> str:
    """An image, grey or RGB, as a URL that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _paths(mask_CHW: NDArray[Any], colors: Sequence[str], stroke: float, extra: str) -> list[str]:
    """SVG paths around each class's foreground, a dark one below for contrast."""
    paths = []
    for c, mask_HW in enumerate(mask_CHW):
        outlines = []
        # One pixel of background all around closes the outlines that touch the border.
        for contour in _measure.find_contours(np.pad(mask_HW.astype(float), 1), 0.5):
            corners = _measure.approximate_polygon(contour - 0.5, tolerance=0.35)
            outlines.append("M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in corners[:-1]) + "Z")
        if outlines:
            shape = f'<path d="{"".join(outlines)}" fill="none" stroke-linejoin="round"'
            color = colors[c % len(colors)]
            paths.append(
                f'{shape} stroke="#000" stroke-opacity=".55" stroke-width="{2 * stroke:.2f}"/>'
            )
            paths.append(f'{shape} stroke="{color}" stroke-width="{stroke:.2f}"{extra}/>')
    return paths
