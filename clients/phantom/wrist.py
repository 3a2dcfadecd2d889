"""A child's wrist in long axis: radius with growth plate, epiphysis and first carpal bone.

The reference mask is the band at the bone surface, as P1 segments bony regions. The growth plate
is the distractor: a gap in the bone line that is no fracture. A fracture is a step, a buckle or a
gap of the metaphysis, with a dark collection above it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clients.phantom.noise import Array, Texture, Wave, stream
from clients.phantom.tissue import Tissue

BAND_MM = 1.5
"""Thickness of the reference band below the bone surface."""
_STEP = 0.05
_REACH = 60.0
_X = np.arange(-_REACH, _REACH, _STEP, dtype=np.float32)


def _column(x: Array) -> npt.NDArray[np.int32]:
    """Where positions lie on the fine lateral axis that all curves share."""
    index = ((x + np.float32(_REACH)) * np.float32(1 / _STEP)).astype(np.int32)
    return np.clip(index, 0, len(_X) - 1)


def _step(distance: Array, width: float) -> Array:
    """0 to 1 over a few widths."""
    return np.asarray(1 / (1 + np.exp(np.clip(-distance / width, -30, 30))), dtype=np.float32)


def _bell(distance: Array) -> Array:
    return np.asarray(np.exp(-0.5 * distance**2), dtype=np.float32)


class Wrist:
    """One sweep over one patient's wrist.

    Args:
        patient: names of the patient (see `noise.stream`).
        sweep: number of the sweep: another view of the same wrist.
    """

    def __init__(self, patient: tuple[object, ...], sweep: int) -> None:
        body = stream(*patient, "wrist")
        self._age = float(body.uniform(3, 17))
        grown = (self._age - 3) / 14
        self._fracture = str(body.choice(["none", "step", "buckle", "gap"], p=[0.5, 0.2, 0.2, 0.1]))
        self.label = "normal" if self._fracture == "none" else "fracture"
        self._fracture_at = float(body.uniform(-15, -5))
        self._displaced = float(body.uniform(0.9, 2.4) * body.choice([-1, 1]))
        self._gap = float(body.uniform(0.6, 1.6))
        self._plate = float(np.clip(2.8 - 2.2 * grown + body.normal(0, 0.3), 0.5, 3.2))
        self._epiphysis = float(3.5 + 5.5 * grown + body.normal(0, 0.5))
        self._flare = float(body.uniform(1.0, 2.4))
        self._carpal = float(5 + 5 * grown)
        self._skin = float(body.uniform(0.9, 1.5))
        self._fat = float(body.uniform(1.0, 4.5))
        self._bulk_db = float(body.normal(0, 1.5))
        view = stream(*patient, "view", sweep)
        self._volar = bool(view.uniform() < 0.5)
        self._depth = float(4.5 + 4 * grown + self._fat + (3.5 if self._volar else 0))
        self._depth += float(view.uniform(-1, 2))
        self._tilt = float(np.tan(np.deg2rad(view.normal(0, 5))))
        self._flip = float(view.choice([-1, 1]))
        self._plate_at = float(view.uniform(-3, 14))
        self._radius = float(view.uniform(9, 16))
        self._speed = float(view.uniform(0.25, 0.45))
        self._phase = float(view.uniform(-1.2, 0.2))
        self._gel = float(view.uniform(1, 4)) if view.uniform() < 0.3 else 0.0
        self._waves = {name: Wave(view, scale, along) for name, scale, along in (
            ("bow", 14.0, 30.0), ("rough", 1.1, 5.0), ("fine", 0.35, 3.0), ("shine", 2.2, 3.0),
            ("patch", 0.7, 2.0), ("drop", 3.0, 4.0), ("skin", 12.0, 20.0), ("fat", 7.0, 15.0),
            ("tendon", 9.0, 15.0), ("deep", 8.0, 15.0), ("fascia", 3.0, 5.0), ("fascia2", 2.5, 5.0),
            ("fade", 4.0, 6.0))}  # fmt: skip
        self._lobule = Texture(view, 0.7, 2.2, 4.0)
        self._streak = Texture(view, 0.16, 3.2, 3.0)
        self._fibre = Texture(view, 0.22, 7.0, 4.0)
        self._cloud = Texture(view, 2.5, 4.0, 8.0)
        self._septum = Texture(view, 0.5, 2.6, 5.0)

    def place(self, frame: int) -> float:
        """The sweep goes to and fro across the bone; 0 is its ridge."""
        return 7.0 * float(np.sin(self._phase + frame * self._speed / 7.0))

    def _bone(self, y: float) -> tuple[Array, Array]:
        """Bone surface on the fine axis: depth in mm and presence from 0 to 1."""
        u = (_X - np.float32(self._plate_at)) * np.float32(self._flip)
        base = self._depth + self._tilt * _X + 0.7 * self._waves["bow"](_X, y)
        base = base + np.float32(y**2 / (2 * self._radius))
        shaft = base + self._flare * (1 - np.exp(np.minimum(u, 0) / 7.0))
        shaft = shaft + 0.10 * self._waves["rough"](_X, y) + 0.04 * self._waves["fine"](_X, y)
        # The end of the metaphysis rounds off towards the plate.
        shaft = shaft + 0.9 * np.exp(np.minimum(u, 0) / 0.6)
        away = u - np.float32(self._fracture_at)
        broken = float(np.exp(-0.5 * ((y - 1.0) / 6.0) ** 2))
        gap = np.zeros_like(u)
        if self._fracture == "step":
            shaft = shaft + self._displaced * broken * np.where(
                away > 0, np.exp(-np.maximum(away, 0) / 9.0), 0.0)  # fmt: skip
            gap = _bell(away / np.float32(0.35)) * broken
        elif self._fracture == "buckle":
            rise = abs(self._displaced) * 0.8 * broken
            shaft = shaft - rise * _bell(away / 1.6) + 0.5 * rise * _bell((away - 3.0) / 1.5)
        elif self._fracture == "gap":
            shaft = shaft + 0.4 * self._displaced * broken * (away > 0)
            gap = (np.abs(away) < self._gap / 2).astype(np.float32) * broken
        near = self._plate
        far = near + self._epiphysis
        half = self._epiphysis / 2
        inside = np.clip((u - near - half) / half, -1, 1)
        dome = base + 0.5 + 0.4 * half * (1 - np.sqrt(np.maximum(1 - (0.95 * inside) ** 2, 0)))
        dome = dome + 0.12 * self._waves["rough"](_X, y)
        start = far + 3.0
        reach = self._carpal / 2
        round_ = np.clip((u - start - reach) / reach, -1, 1)
        carpal = base + 2.6 + 0.6 * reach * (1 - np.sqrt(np.maximum(1 - (0.93 * round_) ** 2, 0)))
        depth = np.where(u <= near / 2, shaft, np.where(u <= far + 1.5, dome, carpal))
        present = (u <= 0) | ((u >= near) & (u <= far))
        present |= (u >= start) & (u <= start + self._carpal)
        return (np.asarray(depth, dtype=np.float32),
                np.asarray(present * np.clip(1 - 1.4 * gap, 0, 1), dtype=np.float32))  # fmt: skip

    def tissue(self, x_NL: Array, z_NL: Array, tilt_NL: Array, y_mm: float) -> Tissue:
        """See `tissue.Anatomy`."""
        column = _column(x_NL)
        depth, present = self._bone(y_mm)
        waves = self._waves
        z_skin = self._gel + 0.25 * waves["skin"](_X, y_mm)
        z_fat = z_skin + self._skin
        z_muscle = z_fat + self._fat * (1 + 0.18 * waves["fat"](_X, y_mm))
        z_muscle = np.minimum(z_muscle, depth - 1.5)
        z_middle = z_muscle + (depth - z_muscle) * (0.5 + 0.1 * waves["tendon"](_X, y_mm))
        skin, fat, muscle, middle, bone = (
            np.asarray(curve, np.float32)[column] for curve in (z_skin, z_fat, z_muscle, z_middle,
                                                                depth))  # fmt: skip
        lobule = self._lobule(x_NL, z_NL - 0.5 * muscle, y_mm)
        # Fibres run along their layer: their texture is read in its coordinates.
        along = z_NL - middle
        streak = self._streak(x_NL, along, y_mm)
        fibre = self._fibre(x_NL, along, y_mm)
        cloud = self._cloud(x_NL, z_NL, y_mm)
        septum = self._septum(x_NL, z_NL - 0.7 * muscle, y_mm)
        tendon_db = 2 + 6 * fibre
        muscle_db = -4 + 2.5 * fibre + 8 * np.maximum(streak - 0.8, 0)
        upper, lower = (muscle_db, tendon_db) if self._volar else (tendon_db, muscle_db)
        db = np.where(z_NL < middle, upper, lower)
        db = np.where(z_NL < muscle, -6 + 2.5 * lobule, db)
        db = np.where(z_NL < fat, 7 + lobule, db)
        db = np.where(z_NL < skin, -30 + 6 * lobule, db) + 1.5 * cloud + self._bulk_db
        # Cartilage of the plate, around the young epiphysis and over the carpal bone.
        u = (x_NL - np.float32(self._plate_at)) * np.float32(self._flip)
        thick = np.float32(0.5 + 0.09 * (17 - self._age))
        over = _step(u + 1.0, 0.5) * _step(z_NL - bone + thick, 0.12)
        db = db + over * (-12 + 1.5 * cloud + lobule - db)
        # Sound that slips between the bones is soon lost in dense cartilage.
        loss = 0.9 * (z_NL > bone + 1.0)
        if self._fracture != "none":
            spot = ((u - self._fracture_at) / 4.0) ** 2 + ((z_NL - bone + 0.4) / 1.5) ** 2
            db = db - 9 * np.exp(-(spot**2)) * float(np.exp(-0.5 * ((y_mm - 1) / 6) ** 2))
        mirror = self._mirrors(column, z_NL, z_skin, z_fat, z_muscle, z_middle, y_mm)
        ridge = np.exp(-((septum / 0.10) ** 2)) * np.clip(cloud + 0.3, 0, 1.6)
        mirror += 2.2 * ridge * ((z_NL > fat) & (z_NL < muscle))
        below, shine, incidence = self._surface(column, z_NL, tilt_NL, depth, present, y_mm)
        single = np.float32
        return Tissue(
            scatter_db_NL=np.asarray(db, single), mirror_NL=np.asarray(mirror, single),
            loss_db_NL=np.asarray(loss, single), bone_mm_NL=below, bone_NL=shine,
            incidence_NL=incidence)  # fmt: skip

    def _mirrors(
        self, column: npt.NDArray[np.int32], z_NL: Array, z_skin: Array, z_fat: Array,
        z_muscle: Array, z_middle: Array, y: float,
    ) -> Array:  # fmt: skip
        """Skin, fascia and the plane between the layers: bright, wavy, fading in and out."""
        waves = self._waves
        total = np.zeros_like(z_NL)
        fade = np.clip(0.7 + 0.5 * waves["fascia"](_X, y), 0, 2)
        fade2 = np.clip(0.3 + 0.6 * waves["fascia2"](_X, y), 0, 2)
        for curve, strength, width in (
            (z_skin, 4.0 * np.ones_like(_X), 0.12), (z_fat, 2.5 * fade, 0.12),
            (z_muscle, 6.0 * fade, 0.14), (z_middle, 5.0 * fade2, 0.12),
        ):  # fmt: skip
            away = (z_NL - np.asarray(curve, np.float32)[column]) / np.float32(width)
            near = np.abs(away) < 4
            total[near] += np.asarray(strength, np.float32)[column[near]] * _bell(away[near])
        return total

    def _surface(
        self, column: npt.NDArray[np.int32], z_NL: Array, tilt_NL: Array, depth: Array,
        present: Array, y: float,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Distance below the bone at right angles, its reflectivity, the beam's incidence."""
        waves = self._waves
        slope = np.gradient(np.convolve(depth, np.full(21, 1 / 21), "same"), _STEP)
        slope = np.clip(slope, -3, 3).astype(np.float32)
        length = np.sqrt(1 + slope**2)
        drop = 1 / (1 + np.exp(-(waves["drop"](_X, y) - 1.1) / 0.18))
        shine = np.exp((5.5 * waves["shine"](_X, y) + 4.0 * waves["patch"](_X, y)) * 0.115)
        shine = shine * (1 - 0.9 * drop) * present
        below = (z_NL - depth[column]) / length[column]
        below = np.where(present[column] > 0.5, below, np.float32(-99)).astype(np.float32)
        # Incidence between beam and surface; the beam leaves the vertical by its tilt.
        incidence = np.arctan(slope)[column] + tilt_NL
        single = np.float32
        return below, np.asarray(shine[column], single), np.asarray(incidence, single)

    def mask(self, x_SS: Array, z_SS: Array, y_mm: float) -> npt.NDArray[np.bool_]:
        """See `tissue.Anatomy`: the band from the surface to `BAND_MM` below it."""
        depth, present = self._bone(y_mm)
        slope = np.gradient(np.convolve(depth, np.full(21, 1 / 21), "same"), _STEP)
        length = np.sqrt(1 + np.clip(slope, -3, 3) ** 2).astype(np.float32)
        column = _column(x_SS)
        below = (z_SS - depth[column]) / length[column]
        return np.asarray((below > -0.25) & (below < BAND_MM) & (present[column] > 0.5))
