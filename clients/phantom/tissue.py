"""What an anatomy tells the renderer about one slice of tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clients.phantom.noise import Array


@dataclass(frozen=True)
class Tissue:
    """One slice, sampled on the beams (N samples, L beams).

    Attributes:
        scatter_db_NL: strength of the diffuse scatterers, dB, average muscle = 0.
        mirror_NL: amplitude of smooth interfaces (skin, fascia, capsules), average muscle = 1.
        loss_db_NL: attenuation beyond what the compensation expects, dB per mm along the beam.
        bone_mm_NL: distance below the bone surface at right angles to it, mm (negative above, far
            negative where no bone lies).
        bone_NL: reflectivity of the bone at this lateral position, about 0 to 2.
        incidence_NL: angle between beam and the bone's normal, radians.
    """

    scatter_db_NL: Array
    mirror_NL: Array
    loss_db_NL: Array
    bone_mm_NL: Array | None = None
    bone_NL: Array | None = None
    incidence_NL: Array | None = None


class Anatomy(Protocol):
    """A patient's tissue: everything the renderer and the writer ask of it."""

    label: str

    def tissue(self, x_NL: Array, z_NL: Array, tilt_NL: Array, y_mm: float) -> Tissue:
        """The slice at sweep place ``y_mm`` (mm)."""

    def mask(self, x_SS: Array, z_SS: Array, y_mm: float) -> npt.NDArray[np.bool_]:
        """The reference segmentation at pixel positions (mm)."""

    def place(self, frame: int) -> float:
        """The sweep place of a frame, mm."""
