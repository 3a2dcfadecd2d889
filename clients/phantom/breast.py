"""A breast: skin, fat lobules with ligaments, gland, chest muscle, and one lesion.

Benign lesions (cyst, fibroadenoma) are smooth and oval and brighten what lies behind them;
malignant ones are irregular, taller, shadowing, with a bright halo and microcalcifications.
The reference mask is the lesion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clients.phantom.lesion import Lesion
from clients.phantom.noise import Array, Texture, Wave, stream
from clients.phantom.tissue import Tissue


class Breast:
    """One sweep over one patient's breast.

    Args:
        patient: names of the patient (see `noise.stream`).
        sweep: number of the sweep: another place of the same breast, with the same lesion.
    """

    def __init__(self, patient: tuple[object, ...], sweep: int) -> None:
        body = stream(*patient, "breast")
        malignant = bool(body.uniform() < 0.4)
        self.label = "malignant" if malignant else "benign"
        kind = (
            "carcinoma" if malignant else str(body.choice(["fibroadenoma", "cyst"], p=[0.7, 0.3]))
        )
        self._density = float(body.uniform(0, 1))
        self._skin = float(body.uniform(1.2, 2.2))
        self._fat = float(body.uniform(2.5, 9.0) * (1.3 - 0.6 * self._density))
        self._gland = float(body.uniform(9, 18))
        size = float(np.exp(body.normal(np.log(6.0), 0.35)))
        depth = self._skin + self._fat + float(body.uniform(0.15, 0.75)) * self._gland
        depth = max(depth, self._skin + 1.5 + 1.2 * size)
        view = stream(*patient, "view", sweep)
        self._lesion = Lesion(
            body, kind, float(view.uniform(-8, 8)), min(depth, 24.0), min(size, 11.0))  # fmt: skip
        self._speed = float(view.uniform(0.2, 0.4))
        self._reach = 0.9 * self._lesion.size_mm
        self._phase = float(view.uniform(-1.3, 0.3))
        self._waves = {name: Wave(view, scale, along) for name, scale, along in (
            ("skin", 15.0, 25.0), ("fat", 5.0, 10.0), ("chest", 30.0, 25.0), ("shade", 2.0, 4.0),
            ("fascia", 3.0, 6.0), ("retro", 25.0, 25.0))}  # fmt: skip
        self._warp = Texture(view, 3.0, 6.0, 9.0)
        self._cloud = Texture(view, 2.5, 4.0, 7.0)
        self._lobule = Texture(view, 1.2, 2.4, 6.0)
        self._strand = Texture(view, 0.28, 2.4, 3.0)
        self._fine = Texture(view, 0.16, 1.4, 2.0)
        self._fibre = Texture(view, 0.22, 7.0, 5.0)
        # Islands of fat within the gland look like lesions to a model that knows brightness only.
        self._islands = [
            (float(view.uniform(-18, 18)), float(view.uniform(0.1, 0.9)),
             float(view.uniform(1.5, 4.0)), float(view.uniform(0.8, 1.8)),
             float(view.normal(0, 6)))
            for _ in range(int(view.integers(1, 5)))]  # fmt: skip

    def place(self, frame: int) -> float:
        """The sweep goes to and fro over the lesion, which stays in the picture."""
        swing = np.sin(self._phase + frame * self._speed / self._reach)
        return self._reach * float(swing)

    def tissue(self, x_NL: Array, z_NL: Array, tilt_NL: Array, y_mm: float) -> Tissue:
        """See `tissue.Anatomy`."""
        waves = self._waves
        axis = np.arange(-60, 60, 0.1, dtype=np.float32)
        column = np.clip(((x_NL + 60) * 10).astype(np.int32), 0, len(axis) - 1)
        z_skin = 0.4 + 0.15 * waves["skin"](axis, y_mm)
        z_dermis = z_skin + self._skin
        z_fat = z_dermis + self._fat * (1 + 0.3 * waves["fat"](axis, y_mm))
        z_retro = z_dermis + self._fat + self._gland * (1 + 0.12 * waves["retro"](axis, y_mm))
        z_fat = np.minimum(z_fat, z_retro - 2)
        z_chest = z_retro + 2.0 + 0.7 * waves["chest"](axis, y_mm)
        skin, dermis, fat, retro, chest = (
            np.asarray(curve, np.float32)[column]
            for curve in (z_skin, z_dermis, z_fat, z_retro, z_chest))  # fmt: skip
        warp = self._warp(x_NL, z_NL, y_mm)
        bent = z_NL + np.float32(1.1) * warp
        cloud = self._cloud(x_NL, z_NL, y_mm)
        lobule = self._lobule(x_NL, bent, y_mm)
        strand = self._strand(x_NL, bent, y_mm)
        fine = self._fine(x_NL, bent, y_mm)
        bright = np.maximum(strand - 0.5, 0)
        gland_db = 3.5 + 4.0 * cloud + 3.5 * strand + 2.0 * fine
        # The less dense the breast, the more of the gland is fat.
        fatty = 1 / (1 + np.exp((lobule - (0.9 - 2.0 * self._density)) / 0.25))
        fatty_db = -7 + 1.2 * fine
        gland_db = np.where(lobule < 3, (1 - fatty) * gland_db + fatty * fatty_db, gland_db)
        db = np.where(z_NL < retro, gland_db, -6 + 1.5 * lobule)
        chest_db = -5 + 4.0 * self._fibre(x_NL, z_NL - chest, y_mm)
        chest_db = chest_db + 3 * cloud
        db = np.where(z_NL > chest, chest_db - 0.25 * (z_NL - chest), db)
        db = np.where(z_NL < fat, fatty_db + 1.2 * cloud, db)
        db = np.where(z_NL < dermis, 4 + fine, db)
        db = np.where(z_NL < skin, np.float32(-20), db)
        # Ligaments: the walls between lobules, brightest where they lie across the beam.
        wall = np.exp(-((lobule / 0.13) ** 2)) * np.clip(0.5 + 0.8 * cloud, 0, 1.8)
        within = (z_NL > dermis) & (z_NL < chest)
        mirror = (1.7 * wall + 1.5 * bright) * within
        fascia = np.clip(0.5 + 0.7 * waves["fascia"](axis, y_mm), 0, 2)[column]
        for curve, strength in ((skin, 5.0), (dermis, 3.0 * fascia), (chest, 6.0 * fascia)):
            away = (z_NL - curve) / np.float32(0.15)
            mirror += strength * np.exp(-0.5 * np.minimum(away**2, 60))
        db = self._with_islands(db, mirror, x_NL, z_NL, fat, retro, y_mm)
        shade = np.maximum(waves["shade"](axis, y_mm) - 0.9, 0)[column]
        loss = 0.5 * shade * ((z_NL > dermis) & (z_NL < fat))
        return self._with_lesion(db, mirror, loss, x_NL, z_NL, fine, y_mm)

    def _with_islands(
        self, db: Array, mirror: Array, x: Array, z: Array, fat: Array, retro: Array, y: float
    ) -> Array:
        """Adds dark fat lobules with a bright wall, without touching the lesion's mask."""
        for across, share, wide, deep, along in self._islands:
            seen = float(np.exp(-0.5 * ((y - along) / 5.0) ** 2))
            centre = fat + share * (retro - fat)
            reach = np.hypot((x - np.float32(across)) / wide, (z - centre) / deep)
            db = db + seen * (-7 - db) / (1 + np.exp(np.clip((reach - 1) * 8, -30, 30)))
            mirror += 1.8 * seen * np.exp(-0.5 * np.minimum(((reach - 1.05) / 0.08) ** 2, 60))
        return db

    def _with_lesion(
        self, db: Array, mirror: Array, loss: Array, x: Array, z: Array, fine: Array, y: float
    ) -> Tissue:
        lesion, look = self._lesion, self._lesion.look
        inside, angle = lesion.inside_mm(x, z, y)
        share = 1 / (1 + np.exp(np.clip(-inside / np.float32(look.edge_mm / 2), -30, 30)))
        grain = look.grain_db * (0.7 * self._cloud(z, x, y) + 0.5 * fine)
        core = look.level_db + grain
        if look.kind == "cyst":
            # Haze under the near wall.
            core = core + 12 * np.exp(-np.maximum(inside, 0) / 0.6) * (angle < 0)
        db = db + share * (core - db)
        mirror *= 1 - share
        if look.halo_db > 0:
            around = np.exp(-0.5 * ((inside + 0.9) / 0.7) ** 2) * (inside < 0)
            db = db + look.halo_db * around
        if look.rim > 0:
            facing = np.sin(angle) ** 2
            mirror += look.rim * facing * np.exp(-0.5 * np.minimum((inside / 0.15) ** 2, 60))
            # Refraction at the sides throws two thin shadows.
            tangent = (np.abs(inside) < 0.5) & (np.abs(np.cos(angle)) > 0.9)
            loss = np.asarray(loss + np.float32(1.2) * tangent, np.float32)
        grains = lesion.grains(x, z, y)
        if grains is not None:
            mirror += grains
        loss = loss + np.float32(look.loss_db) * share
        single = np.float32
        return Tissue(scatter_db_NL=np.asarray(db, single), mirror_NL=np.asarray(mirror, single),
                      loss_db_NL=np.asarray(loss, single))  # fmt: skip

    def mask(self, x_SS: Array, z_SS: Array, y_mm: float) -> npt.NDArray[np.bool_]:
        """See `tissue.Anatomy`."""
        return self._lesion.covers(x_SS, z_SS, y_mm)
