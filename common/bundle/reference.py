"""What the sites' training images look like, as aggregates, and how far a new frame lies from it.

Each site gives means and spreads over at least `COHORT` of its images: of thirteen grey-level
numbers, of the encoders' features, and of the distances that its own held-out patients have to
them. No number in it belongs to one image.

Legend: G grey-level numbers, D features of all members.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from scipy.ndimage import uniform_filter

from common.bundle.files import REFERENCE, VERSION, check_version, read_json
from common.config.base import Table, option
from common.errors import InputError

GREY = 13
"""Numbers that describe an image's grey levels; see `describe`."""

SCALES = (1, 2, 4, 8)
"""Half widths of the smoothings between which texture is measured, in pixels of the square."""

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
    grey_mean_G: tuple[float, ...] = Field(
        min_length=GREY, max_length=GREY, description="mean of the grey-level numbers"
    )
    grey_covariance_GG: tuple[tuple[float, ...], ...] = Field(
        min_length=GREY, max_length=GREY, description="their covariance, shrunk to its diagonal"
    )
    grey: Spread = Field(description="of log distances of held-out patients to that mean")
    feature_mean_D: tuple[float, ...] = Field(description="mean of the encoders' features")
    feature_sd_D: tuple[float, ...] = Field(description="their standard deviations")
    feature: Spread = Field(description="of log distances of held-out patients to that mean")
    confidence: Spread = Field(
        description="of the mean confidence over the mask, or of that of the class"
    )


class Reference(Table):
    """`configs/reference.json`."""

    version: int = option(VERSION, "of the bundle's layout", ge=1)
    sites: dict[str, SiteReference] = Field(description="name to aggregates")


@dataclass(frozen=True)
class Distance:
    """How far a frame lies from the nearest site, in that site's standard deviations of the log.

    Attributes:
        grey: Of the grey levels and their texture.
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


def describe(image_SS: NDArray[np.uint8]) -> Floats:
    """Thirteen numbers (G,) of an image's grey levels, on scales of about 1.

    Mean, spread, 10th and 90th percentile of the levels above 0; the share of zeros; the energy of
    four bands of texture; the mean slope and its direction; how the rows darken with depth. Zeros
    right and below are padding and stay out. An image of zeros alone gives zeros.
    """
    rows, columns = (np.flatnonzero(image_SS.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(GREY)
    image = image_SS[: rows[-1] + 1, : columns[-1] + 1].astype(np.float64)
    lit = image[image > 0]
    low, high = np.percentile(lit, (10, 90))
    numbers = [lit.mean() / 64, lit.std() / 32, math.log1p(10 * float((image == 0).mean())),
               low / 64, high / 128]  # fmt: skip
    finer = image
    for scale in SCALES:
        coarser = uniform_filter(finer if scale > 1 else image, 2 * scale + 1, mode="nearest")
        numbers.append(math.log(float((finer - coarser).std()) + 0.5))
        finer = coarser
    down, across = (np.abs(np.diff(image, axis=axis)) for axis in (0, 1))
    steep_down = float(down.mean()) if down.size else 0.0
    steep_across = float(across.mean()) if across.size else 0.0
    numbers += [math.log((steep_down + 0.1) / (steep_across + 0.1)), math.log(steep_down + 0.5)]
    quarters = [float(part.mean()) if part.size else 0.0 for part in np.array_split(image, 4)]
    numbers += [(quarters[0] - quarters[3]) / 64, (quarters[1] - quarters[2]) / 64]
    return np.array(numbers, dtype=np.float64)


def shrunk_covariance(grey_NG: Floats, patients: int) -> Floats:
    """Covariance (G, G), drawn to its diagonal the more, the fewer patients stand behind it."""
    covariance = np.cov(grey_NG.T)
    own = 0.98 * patients / (patients + GREY)
    diagonal = np.diag(np.diag(covariance))
    shrunk: Floats = own * covariance + (1 - own) * diagonal + 1e-4 * np.eye(len(covariance))
    return shrunk


def grey_distance(grey_G: Floats, mean_G: Floats, covariance_GG: Floats) -> float:
    """Mahalanobis distance, over the root of the number of dimensions."""
    off = grey_G - mean_G
    return math.sqrt(float(off @ np.linalg.solve(covariance_GG, off)) / len(off))


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


def class_confidence(pred_C: NDArray[Any]) -> float:
    """How sure a probability of classes is, 1 - H(p) / ln C, in [0, 1]."""
    p = np.clip(pred_C.astype(np.float64), 1e-12, 1.0)
    return float(1 + (p * np.log(p)).sum() / math.log(len(p)))


def log_distance(value: float) -> float:
    """Logarithm that a distance of 0 survives."""
    return math.log(max(value, 1e-6))


def distance_of(
    grey_G: Floats, feature_D: Floats, confidence: float, reference: Reference
) -> Distance:
    """Hold one frame against all sites; the nearest site counts, for each quantity by itself."""
    grey, feature, sure = [], [], []
    for site in reference.sites.values():
        near = log_distance(
            grey_distance(grey_G, np.array(site.grey_mean_G), np.array(site.grey_covariance_GG))
        )
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
