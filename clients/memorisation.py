"""The check that diffusion weights pass before they leave the source: do they redraw its images?

256 images are drawn on the edges of held-out source images. A model that has learnt the source's
style lies as far from the training images as held-out images do; a model that has learnt the
images themselves lies nearer. The figure is the share of drawn images nearer to a training image
than the 5th percentile of the held-out images' own distances, so about .05 is what an honest model
has. It is taken in two spaces and the larger share counts. Distances stay at the site.

Legend: N, M images, D features, S side in pixels.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Squares = NDArray[np.uint8]
Features = Callable[[Squares], NDArray[np.floating]]
"""(N, S, S) uint8 images to (N, D) features."""

PERCENTILE = 5.0
CORRELATION_SIDE = 32
CHUNK = 1024


class ReleaseRefused(Exception):  # noqa: N818 - it is an outcome, not a fault of the code
    """The diffusion model redraws training images: its weights stay where they are."""


@dataclass(frozen=True)
class Memorisation:
    """What the check found.

    Attributes:
        samples: Images drawn.
        held_out: Held-out images whose distances set the bound.
        features: Share of the samples that lie too near, in the source classifier's features.
        correlation: The same in normalised correlation at 32 px.
        bound_features: The bound itself, a cosine distance; it stays at the site.
        bound_correlation: The bound itself, 1 - r; it stays at the site.
    """

    samples: int
    held_out: int
    features: float
    correlation: float
    bound_features: float
    bound_correlation: float

    @property
    def share(self) -> float:
        """The larger of the two shares: what the threshold is held against."""
        return max(self.features, self.correlation)

    def metrics(self) -> dict[str, float | int]:
        """What may be reported."""
        return {
            "memorisation_features": self.features,
            "memorisation_correlation": self.correlation,
            "memorisation_samples": self.samples,
        }

    def record(self, threshold: float) -> dict[str, float | int | bool]:
        """What the site keeps."""
        return {**asdict(self), "threshold": threshold, "released": self.share < threshold}


def measure(
    samples_NSS: Squares, held_out_NSS: Squares, training_NSS: Squares, features: Features
) -> Memorisation:
    """The check on images that have been drawn.

    Args:
        samples_NSS: Drawn on edges of held-out images.
        held_out_NSS: Source images that no step has seen.
        training_NSS: Those that the model was trained on.
        features: The source classifier's.
    """
    sets = (samples_NSS, held_out_NSS, training_NSS)
    shares = [
        _share(*(describe(images) for images in sets))
        for describe in (features, correlation_vector)
    ]
    (in_features, bound_features), (in_correlation, bound_correlation) = shares
    return Memorisation(
        len(samples_NSS), len(held_out_NSS), in_features, in_correlation, bound_features,
        bound_correlation,
    )  # fmt: skip


def refuse_above(found: Memorisation, threshold: float) -> None:
    """Release only below the threshold.

    Raises:
        ReleaseRefused: With the two shares; no distance and no image in it.
    """
    if not found.share < threshold:
        raise ReleaseRefused(
            f"of {found.samples} images drawn on held-out edges, {found.features:.3f} (features) "
            f"and {found.correlation:.3f} (correlation) lie nearer to a training image than "
            f"held-out images do; the weights leave below {threshold:g} only"
        )


def correlation_vector(images_NSS: Squares) -> NDArray[np.float32]:
    """(N, 1024) means over 32 x 32 cells: their inner product, standardised, is Pearson's r."""
    parts = []
    for start in range(0, len(images_NSS), CHUNK):
        images = torch.from_numpy(np.array(images_NSS[start : start + CHUNK])).float().unsqueeze(1)
        cells = F.adaptive_avg_pool2d(images, min(CORRELATION_SIDE, images.shape[-1])).flatten(1)
        parts.append((cells - cells.mean(1, keepdim=True)).numpy())
    return np.concatenate(parts)


def nearest_distances(
    of_ND: NDArray[np.floating], among_MD: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N,) cosine distance of each row to the nearest of another set, in [0, 2]."""
    unit_MD = _unit(among_MD)
    return np.concatenate(
        [
            1 - (_unit(of_ND[start : start + CHUNK]) @ unit_MD.T).max(1)
            for start in range(0, len(of_ND), CHUNK)
        ]
    )


def _share(
    samples_ND: NDArray[np.floating],
    held_out_ND: NDArray[np.floating],
    training_MD: NDArray[np.floating],
) -> tuple[float, float]:
    bound = float(np.percentile(nearest_distances(held_out_ND, training_MD), PERCENTILE))
    near = nearest_distances(samples_ND, training_MD) < bound
    return float(near.mean()), bound


def _unit(rows_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.asarray(rows_ND, np.float64)
    unit: NDArray[np.float64] = rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), 1e-12
    )
    return unit
