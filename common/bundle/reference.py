"""What the sites' training images look like, as aggregates, and how far a new frame lies from it.

Each site gives means and spreads over at least `COHORT` of its images: of the grey-level
histogram, of the encoders' features, and of the distances that its own held-out patients have to
them. No number in it belongs to one image.

Legend: G grey bins, D features of all members.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from common.bundle.files import REFERENCE, VERSION, check_version, read_json
from common.config.base import Table, option
from common.errors import InputError

BINS = 32
COHORT = 5
"""Fewest images and fewest patients that a site's reference may stand on."""

SPREADS = 3.0
"""Standard deviations of the logarithm from which on a distance is beyond a site's range."""

Floats = NDArray[np.float64]


class Spread(Table):
    """Mean and standard deviation of a quantity over a site's held-out patients' images."""

    mean: float = option(0.0, "mean")
    sd: float = option(0.0, "standard deviation", ge=0)


class SiteReference(Table):
    """One site's part."""

    images: int = Field(ge=COHORT, description="behind the numbers")
    patients: int = Field(ge=COHORT, description="behind the numbers (statistics units)")
    grey_G: tuple[float, ...] = Field(
        min_length=BINS, max_length=BINS, description="mean histogram of the grey levels above 0"
    )
    grey: Spread = Field(description="of log distances of held-out patients to the mean histogram")
    feature_mean_D: tuple[float, ...] = Field(description="mean of the encoders' features")
    feature_sd_D: tuple[float, ...] = Field(description="their standard deviations")
    feature: Spread = Field(description="of log distances of held-out patients to that mean")
    confidence: Spread = Field(description="of the mean confidence over the mask")


class Reference(Table):
    """`configs/reference.json`."""

    version: int = option(VERSION, "of the bundle's layout", ge=1)
    sites: dict[str, SiteReference] = Field(description="name to aggregates")


@dataclass(frozen=True)
class Distance:
    """How far a frame lies from the nearest site, in that site's standard deviations of the log.

    Attributes:
        grey: Of the grey-level histogram.
        feature: Of the encoders' features.
        confidence: How far below the least sure site's mean the mask's confidence lies.
    """

    grey: float
    feature: float
    confidence: float

    @property
    def flags(self) -> tuple[str, ...]:
        """What is beyond every site's range: "grey", "feature", "confidence"."""
        return tuple(
            name for name in ("grey", "feature", "confidence") if getattr(self, name) > SPREADS
        )


def histogram(image_SS: NDArray[np.uint8]) -> Floats:
    """Shares (G,) of the grey levels above 0; padding and what lies outside the beam is 0.

    An image of zeros alone gives zeros.
    """
    counts = np.bincount(image_SS.ravel(), minlength=256).astype(np.float64)
    counts[0] = 0
    total = counts.sum()
    shares: Floats = counts.reshape(BINS, -1).sum(axis=1) / max(total, 1.0)
    return shares


def grey_distance(a_G: Floats, b_G: Floats) -> float:
    """Wasserstein-1 distance of two histograms, in grey levels (0..255)."""
    return float(np.abs(np.cumsum(a_G - b_G)).sum() * (256 / BINS))


def feature_distance(feature_D: Floats, mean_D: Floats, sd_D: Floats) -> float:
    """Root mean square of a feature's deviations, each in its own standard deviation.

    A spread below a tenth of the features' mean spread counts as that tenth: a feature that never
    moved in training would otherwise decide alone.
    """
    floor = max(0.1 * float(sd_D.mean()), 1e-6)
    return float(np.sqrt(np.mean(((feature_D - mean_D) / np.maximum(sd_D, floor)) ** 2)))


def mask_confidence(
    pred_CSS: NDArray[Any], confidence_CSS: NDArray[Any], threshold: float
) -> float:
    """Mean confidence over the predicted foreground; over all pixels where there is none."""
    inside = pred_CSS >= threshold
    return float(confidence_CSS[inside].mean() if inside.any() else confidence_CSS.mean())


def log_distance(value: float) -> float:
    """Logarithm that a distance of 0 survives."""
    return math.log(max(value, 1e-6))


def distance_of(
    histogram_G: Floats, feature_D: Floats, confidence: float, reference: Reference
) -> Distance:
    """Hold one frame against all sites; the nearest site counts, for each quantity by itself."""
    grey, feature, sure = [], [], []
    for site in reference.sites.values():
        near = log_distance(grey_distance(histogram_G, np.array(site.grey_G)))
        grey.append(_beyond(near, site.grey))
        far = feature_distance(
            feature_D, np.array(site.feature_mean_D), np.array(site.feature_sd_D)
        )
        feature.append(_beyond(log_distance(far), site.feature))
        sure.append(_beyond(-confidence, Spread(mean=-site.confidence.mean, sd=site.confidence.sd)))
    return Distance(min(grey), min(feature), min(sure))


def _beyond(value: float, spread: Spread) -> float:
    # Few held-out patients that happen to agree are not a narrow range.
    return (value - spread.mean) / max(spread.sd, 0.05)


def spread_of(values: Floats) -> Spread:
    """Mean and standard deviation, as the sites give them."""
    return Spread(mean=float(values.mean()), sd=float(values.std(ddof=1)))


def read_reference(bundle: Path, names: Mapping[str, str]) -> Reference | None:
    """A bundle's reference statistics; None where it carries none.

    Args:
        bundle: Its folder.
        names: The files that its digests name.

    Raises:
        InputError: If the file is newer than this sonofed or not of this format.
    """
    if REFERENCE not in names:
        return None
    path = bundle / REFERENCE
    raw = read_json(path)
    check_version(raw, path)
    try:
        reference = Reference.model_validate(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise InputError(
            [f"{path}: {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults]
        ) from None
    return reference if reference.sites else None
