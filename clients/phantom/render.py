"""From a slice of tissue to the picture on the screen of one probe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clients.phantom import speckle
from clients.phantom.geometry import Geometry, geometry
from clients.phantom.noise import Array, Wave, stream
from clients.phantom.probes import Probe
from clients.phantom.tissue import Anatomy, Tissue

_DB = np.float32(np.log(10.0) / 20.0)


def amplitude(db: Array) -> Array:
    """Amplitude of a level in dB."""
    return np.asarray(np.exp(db * _DB), dtype=np.float32)


class Camera:
    """One probe on one patient for one sweep: fixed depth and gain, a hand that moves.

    Args:
        probe: the probe.
        names: what tells this sweep apart (see `noise.stream`).
        patient: the names of the patient, for settings that all sweeps share.
        side: pixels of the square picture.
    """

    def __init__(
        self, probe: Probe, names: tuple[object, ...], patient: tuple[object, ...], side: int
    ) -> None:
        self._probe = probe
        self._names = names
        setting = stream(*patient, "setting")
        self.depth_mm = float(setting.uniform(*probe.depth_mm))
        self._gain = probe.gain + float(np.clip(setting.normal(0, probe.gain_spread), -0.12, 0.12))
        self._range_db = probe.dynamic_range_db * float(setting.uniform(0.93, 1.07))
        # Small pictures are drawn larger and averaged: a beam must not be thinner than a pixel.
        self._reduce = -(-144 // side) if side < 144 else 1
        self.geometry: Geometry = geometry(probe, self.depth_mm, side * self._reduce)
        shape = self.geometry.x_NL.shape
        self._shape = (int(shape[0]), int(shape[1]))
        self._scatterers = speckle.Scatterers(names, self._shape, probe.elevation_mm)
        sigma = speckle.lateral_sigma(probe, self.geometry)
        self._transfers = speckle.lateral_transfer(sigma, self._shape[1], probe.looks)
        self._taps = speckle.axial_taps(probe.axial_mm / self.geometry.sample_mm)
        rng = stream(*names, "hand")
        self._drift = Wave(rng, 25.0)
        self._press = Wave(rng, 18.0)
        self._loss_L = self._contact(rng)
        decades = self.geometry.range_N[:, None] / np.float32(10.0)
        self._fade_N1 = amplitude(np.asarray(-probe.fade_db * (decades - 1.2), np.float32))
        self._noise_N1 = amplitude(np.asarray(probe.noise_db + probe.noise_slope_db * decades))

    def _contact(self, rng: np.random.Generator) -> Array:
        """Amplitude left on each beam where an end of the face lifts off, (L,)."""
        lines = self._shape[1]
        place = np.linspace(0, 1, lines, dtype=np.float32)
        loss_db = 1.5 * Wave(rng, 0.12)(place)
        if rng.uniform() < self._probe.contact_loss:
            edge = rng.uniform(0.06, 0.2)
            from_edge = place if rng.uniform() < 0.5 else 1 - place
            loss_db = loss_db - 34 / (1 + np.exp((from_edge - edge) / 0.015))
        return amplitude(np.asarray(loss_db, np.float32))

    def motion(self, frame: int) -> tuple[int, int]:
        """The hand: whole samples down and whole beams right at a frame.

        Whole steps, so that tissue and scatterers move exactly together.
        """
        down = 0.35 * self._press.at(float(frame)) / self.geometry.sample_mm
        pitch = float(np.median(self.geometry.line_mm_N))
        right = 1.6 * self._drift.at(float(frame)) / pitch
        return round(down), round(right)

    def shoot(self, anatomy: Anatomy, frame: int) -> tuple[Array, npt.NDArray[np.bool_]]:
        """One frame.

        Args:
            anatomy: the patient.
            frame: number of the frame, from 0.

        Returns:
            Picture (S, S) in 0 to 1 and mask (S, S).
        """
        grid = self.geometry
        y_mm = anatomy.place(frame)
        down, right = self.motion(frame)
        pitch = float(np.median(grid.line_mm_N))
        dx, dz = np.float32(right * pitch), np.float32(down * grid.sample_mm)
        x_NL, z_NL = grid.x_NL - dx, grid.z_NL - dz
        tissue = anatomy.tissue(x_NL, z_NL, grid.tilt_NL, y_mm)
        scatterers = self._scatterers.at(y_mm, down, right)
        field = echo(tissue, scatterers, grid, self._probe)
        field *= self._fade_N1 * self._loss_L[None, :]
        self._ringdown(field)
        power = self.envelope(field) ** 2 + self._noise_N1**2 * self._hiss(frame)
        picture = grid.picture(self._finish(np.asarray(10 * np.log10(power + 1e-9), np.float32)))
        mask = anatomy.mask(grid.x_SS - dx, grid.z_SS - dz, y_mm) & grid.inside_SS
        if self._probe.ticks:
            self._tick(picture)
        return self._reduced(picture), self._reduced(mask.astype(np.float32)) > 0.5

    def envelope(self, field_NL: speckle.Field) -> Array:
        """The point spread: echoes (N, L) to the envelope (N, L) that the machine detects."""
        return speckle.blur_lateral(speckle.blur_axial(field_NL, self._taps), self._transfers)

    def _hiss(self, frame: int) -> Array:
        """Power of the receiver's noise, (N, L), unit mean: new in every frame.

        It passes the receive filter, so it is as coarse along the beam as the pulse; neighbouring
        beams share most of their elements and so their noise.
        """
        samples, lines = self._shape
        rng = stream(*self._names, "noise", frame)
        pairs = rng.standard_normal((samples, lines + 2, 2), dtype=np.float32)
        white = pairs.view(np.complex64)[..., 0]
        # Weights 1 2 1, scaled (with the 1/2 of a complex normal) to unit variance.
        shared = (white[:, :-2] + white[:, 2:] + 2 * white[:, 1:-1]) * np.float32(np.sqrt(1 / 12))
        noise = speckle.blur_axial(shared, self._taps)
        return np.asarray(noise.real**2 + noise.imag**2, dtype=np.float32)

    def _ringdown(self, field_NL: speckle.Field) -> None:
        """The bright band that the pulse itself leaves at the face."""
        reach = self.geometry.range_N[:, None] / np.float32(self._probe.ringdown_mm)
        rows = int(np.searchsorted(reach[:, 0], 4.0))
        bands = 0.65 + 0.35 * np.cos(2.2 * np.pi * reach[:rows])
        field_NL[:rows] += 9 * bands * np.exp(-0.5 * reach[:rows] ** 2)

    def _finish(self, level_db_NL: Array) -> Array:
        """Dynamic range, gain, smoothing, edge enhancement and grey map, (N, L) in 0 to 1."""
        probe = self._probe
        grey = np.clip(self._gain + level_db_NL / np.float32(self._range_db), 0, 1)
        scale = self._shape[0] / 256
        if probe.blur_px > 0:
            grey = ndimage.gaussian_filter(grey, probe.blur_px * scale, truncate=3.0)
        if probe.sharpen > 0:
            soft = ndimage.gaussian_filter(grey, 1.5 * scale, truncate=2.0)
            grey = grey + np.float32(probe.sharpen) * (grey - soft)
        return np.asarray(np.clip(grey, 0, 1) ** np.float32(probe.gamma), dtype=np.float32)

    def _tick(self, picture_SS: Array) -> None:
        """Depth marks every 5 mm in the right bar, as hand-held probes burn them in."""
        side = len(picture_SS)
        for step in range(1, int(self.depth_mm // 5) + 1):
            row = round(step * 5 / self.geometry.pixel_mm)
            if row < side:
                length = side // (40 if step % 2 else 24)
                picture_SS[row, side - 2 - length : side - 2] = 0.7

    def _reduced(self, picture_SS: Array) -> Array:
        """Averages blocks of pixels where the picture was drawn larger than asked."""
        if self._reduce == 1:
            return picture_SS
        side = len(picture_SS) // self._reduce
        blocks = picture_SS.reshape(side, self._reduce, side, self._reduce)
        return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def echo(
    tissue: Tissue, scatterers_NL: speckle.Field, grid: Geometry, probe: Probe
) -> speckle.Field:
    """What comes back along each beam before the point spread: scatterers, mirrors, bone, shadow.

    Args:
        tissue: the slice.
        scatterers_NL: unit complex noise that moves with the tissue.
        grid: the beams.
        probe: strengths of bone, ringing, reverberation and haze.

    Returns:
        The complex field (N, L), average muscle = unit variance.
    """
    level = amplitude(tissue.scatter_db_NL)
    coherent = np.float32(probe.coherence)
    diffuse = np.float32(np.sqrt(1 - probe.coherence**2))
    if tissue.loss_db_NL.any():
        lost = np.cumsum(tissue.loss_db_NL, axis=0) * np.float32(grid.sample_mm)
        passed = amplitude(-lost)
    else:
        passed = np.ones_like(level)
    soft = level * scatterers_NL + tissue.mirror_NL * (coherent + diffuse * scatterers_NL)
    soft *= passed
    if tissue.bone_mm_NL is None or tissue.bone_NL is None or tissue.incidence_NL is None:
        return np.asarray(soft, dtype=np.complex64)
    below = tissue.bone_mm_NL
    hit = below >= 0
    hidden = np.logical_or.accumulate(hit, axis=0)
    first_L = np.where(hidden.any(axis=0), hidden.argmax(axis=0), len(level))
    tail = np.where(hit, np.float32(probe.ringing_mm), np.float32(0.08))
    line = np.exp(-np.abs(below) / tail)
    line[hidden & ~hit] = 0
    facing = np.exp(-((tissue.incidence_NL / np.float32(np.deg2rad(probe.bone_angle_deg))) ** 2))
    shine = tissue.bone_NL * (np.float32(0.08) + np.float32(0.92) * facing)
    bone = _factor(probe.bone_db) * shine * line * passed
    bone = bone * (coherent + diffuse * scatterers_NL)
    total = soft + bone
    # The second trip: what lies above the bone appears again below it, weaker.
    rows = np.arange(len(level))[:, None] - first_L[None, :]
    again = np.take_along_axis(total, np.clip(rows, 0, len(level) - 1), axis=0)
    # How much of each beam the bone throws back, the same all the way down; on the longer way the
    # beams have spread over their neighbours.
    met_L = np.take_along_axis(shine, np.minimum(first_L, len(level) - 1)[None, :], axis=0)
    met_L = ndimage.gaussian_filter1d(met_L, 1.5 / float(np.median(grid.line_mm_N)), axis=1)
    haze = amplitude(np.asarray(probe.clutter_db - 1.1 * np.maximum(below, 0), np.float32))
    behind = _factor(probe.shadow_db) * soft + _factor(probe.reverberation_db) * again * met_L
    behind += haze * (0.3 + 4 * met_L) * scatterers_NL
    return np.asarray(np.where(hidden, behind + bone, total), dtype=np.complex64)


def _factor(db: float) -> np.float32:
    return np.float32(10 ** (db / 20))
