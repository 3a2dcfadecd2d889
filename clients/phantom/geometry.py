"""Where the samples of each beam lie in the tissue, and how they become a square picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clients.phantom.noise import Array
from clients.phantom.probes import Probe

MARGIN = 14
"""Beams simulated beyond each end of the picture, so that the row-wise FFT wraps unseen."""


@dataclass(frozen=True)
class Geometry:
    """One probe at one depth setting.

    N = samples along a beam, L = beams with margins, S = side of the picture.

    Attributes:
        x_NL: lateral position of each sample, mm, 0 at the middle of the face.
        z_NL: depth of each sample below the middle of the face, mm.
        range_N: distance from the face along the beam, mm.
        line_mm_N: distance between neighbouring beams at each range, mm.
        tilt_NL: angle of the beam against the vertical, radians.
        sample_mm: distance between samples of a beam.
        x_SS: lateral position of each pixel, mm.
        z_SS: depth of each pixel, mm.
        tilt_SS: angle of the beam through each pixel, radians.
        inside_SS: pixels that show tissue.
        pixel_mm: size of a pixel.
    """

    x_NL: Array
    z_NL: Array
    range_N: Array
    line_mm_N: Array
    tilt_NL: Array
    sample_mm: float
    x_SS: Array
    z_SS: Array
    tilt_SS: Array
    inside_SS: npt.NDArray[np.bool_]
    pixel_mm: float
    _where: npt.NDArray[np.float32]

    def picture(self, beams_NL: Array) -> Array:
        """Scan conversion: (N, L) beams to (S, S) pixels by bilinear interpolation, 0 outside."""
        out = ndimage.map_coordinates(beams_NL, self._where, order=1, mode="nearest")
        picture = np.zeros(self.inside_SS.shape, np.float32)
        picture[self.inside_SS] = out
        return picture


def geometry(probe: Probe, depth_mm: float, side: int) -> Geometry:
    """Lays out beams and pixels.

    The picture is ``depth_mm`` high; a linear face narrower than that leaves black bars at both
    sides, a wider one is cut as operators do when they zoom.

    Args:
        probe: the probe.
        depth_mm: depth setting.
        side: pixels of the square picture.

    Returns:
        The geometry.
    """
    samples = max(96, round(side * 8 / 7))
    range_N = (np.arange(samples, dtype=np.float32) + 0.5) * np.float32(depth_mm / samples)
    half = np.arange(side, dtype=np.float32) - (side - 1) / 2
    if probe.radius_mm == 0:
        pixel_mm = depth_mm / side
        width = min(probe.footprint_mm, depth_mm)
        lines = max(48, round(side * 6 / 7 * width / depth_mm))
        pitch = width / lines
        across = (np.arange(lines + 2 * MARGIN) - (lines - 1) / 2 - MARGIN) * pitch
        x_NL = np.broadcast_to(across[None, :], (samples, len(across)))
        z_NL = np.broadcast_to(range_N[:, None], x_NL.shape)
        tilt_NL = np.zeros(x_NL.shape)
        line_mm = np.full(samples, pitch)
        x_SS = np.broadcast_to(half[None, :] * pixel_mm, (side, side))
        z_SS = np.broadcast_to((np.arange(side)[:, None] + 0.5) * pixel_mm, (side, side))
        tilt_SS = np.zeros((side, side))
        inside = np.abs(x_SS) <= width / 2
        beam = x_SS / pitch + (lines - 1) / 2 + MARGIN
        reach = z_SS
    else:
        angle = probe.footprint_mm / probe.radius_mm / 2
        sag = probe.radius_mm * (1 - np.cos(angle))
        # The bottom of the sector lies depth + sag below the corners of the face; its two lowest
        # corners may fall off the screen, as they do on most machines.
        width = 2 * (probe.radius_mm + depth_mm) * np.sin(angle)
        pixel_mm = float(max(depth_mm + sag, 0.88 * width)) / side
        lines = max(48, round(side * 6 / 7))
        pitch = 2 * angle / lines
        theta = (np.arange(lines + 2 * MARGIN) - (lines - 1) / 2 - MARGIN) * pitch
        radius = probe.radius_mm + range_N[:, None]
        x_NL = radius * np.sin(theta)[None, :]
        z_NL = radius * np.cos(theta)[None, :] - probe.radius_mm
        tilt_NL = np.broadcast_to(theta[None, :], x_NL.shape)
        line_mm = radius[:, 0] * pitch
        x_SS = np.broadcast_to(half[None, :] * pixel_mm, (side, side))
        z_SS = np.broadcast_to((np.arange(side)[:, None] + 0.5) * pixel_mm - sag, (side, side))
        tilt_SS = np.arctan2(x_SS, z_SS + probe.radius_mm)
        reach = np.hypot(x_SS, z_SS + probe.radius_mm) - probe.radius_mm
        inside = (np.abs(tilt_SS) <= angle) & (reach >= 0) & (reach <= depth_mm)
        beam = tilt_SS / pitch + (lines - 1) / 2 + MARGIN
    step = depth_mm / samples
    where = np.stack([(reach / step - 0.5)[inside], beam[inside]]).astype(np.float32)

    def single(values: npt.NDArray[np.floating]) -> Array:
        return np.ascontiguousarray(values, dtype=np.float32)

    return Geometry(
        x_NL=single(x_NL), z_NL=single(z_NL), range_N=range_N, line_mm_N=single(line_mm),
        tilt_NL=single(tilt_NL), sample_mm=step, x_SS=single(x_SS), z_SS=single(z_SS),
        tilt_SS=single(tilt_SS), inside_SS=np.ascontiguousarray(inside), pixel_mm=pixel_mm,
        _where=where,
    )  # fmt: skip
