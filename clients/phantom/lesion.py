"""Breast lesions: an outline in polar form, what is inside, and what it does to the beam behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clients.phantom.noise import Array, Wave

_BINS = 1440
_ANGLE = (np.arange(_BINS, dtype=np.float32) / _BINS * 2 * np.pi - np.pi).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """The kind of a lesion.

    Attributes:
        kind: cyst, fibroadenoma or carcinoma.
        level_db: echogenicity against average tissue.
        grain_db: unevenness inside.
        loss_db: attenuation inside, dB per mm; negative brightens what lies behind.
        halo_db: brightness of the tissue around.
        rim: strength of a thin bright capsule.
        edge_mm: width over which the margin fades.
    """

    kind: str
    level_db: float
    grain_db: float
    loss_db: float
    halo_db: float
    rim: float
    edge_mm: float


def look(kind: str, rng: np.random.Generator) -> Look:
    """Draws the look of one lesion; kinds overlap, as they do in patients."""
    u = rng.uniform
    if kind == "cyst":
        return Look(kind, u(-34, -24), 1.0, u(-0.75, -0.35), 0.0, u(1.5, 4.0), 0.15)
    if kind == "fibroadenoma":
        return Look(kind, u(-13, -6), u(1.0, 2.5), u(-0.45, 0.0), 0.0, u(0.5, 3.5), u(0.15, 0.4))
    return Look(kind, u(-18, -9), u(2.0, 4.5), u(-0.05, 1.3), u(0, 5), 0.0, u(0.3, 0.9))


class Lesion:
    """One lesion.

    Args:
        rng: where it is drawn.
        kind: see `Look`.
        x_mm: lateral position of the centre.
        z_mm: depth of the centre.
        size_mm: mean radius.
    """

    def __init__(
        self, rng: np.random.Generator, kind: str, x_mm: float, z_mm: float, size_mm: float
    ) -> None:
        self.look = look(kind, rng)
        self.x_mm, self.z_mm, self.size_mm = x_mm, z_mm, size_mm
        smooth = kind != "carcinoma"
        # Width over depth: benign lesions lie flat, malignant ones cross the tissue planes.
        ratio = float(rng.uniform(1.3, 2.0) if smooth else rng.uniform(0.75, 1.35))
        self._wide, self._deep = size_mm * np.sqrt(ratio), size_mm / np.sqrt(ratio)
        turn = float(np.deg2rad(rng.normal(0, 9 if smooth else 25)))
        self._turn = (float(np.cos(turn)), float(np.sin(turn)))
        orders = np.arange(2, 5 if smooth else 12)
        self._orders = orders
        strength = (0.05 if smooth else 0.11) * rng.standard_normal(len(orders))
        self._strength = strength / (orders / 2.0) ** (1.0 if smooth else 0.55)
        self._phases = rng.uniform(0, 2 * np.pi, len(orders))
        self._twist = rng.normal(0, 0.02 if smooth else 0.08, len(orders))
        count = 0 if smooth else int(rng.integers(2, 7))
        self._spikes = np.stack([rng.uniform(-np.pi, np.pi, count), rng.uniform(0.08, 0.35, count),
                                 rng.uniform(0.08, 0.3, count)])  # fmt: skip
        grains = 0 if smooth or rng.uniform() < 0.4 else int(rng.integers(4, 16))
        self._grains = np.stack([
            rng.normal(0.1, 0.35, grains) * self._wide, rng.normal(0, 0.3, grains) * self._deep,
            rng.normal(0, 2.0, grains), rng.lognormal(1.6, 0.6, grains),
            rng.uniform(0.10, 0.30, grains)])  # fmt: skip
        self._ragged = Wave(rng, 0.12 if not smooth else 0.4, 3.0)

    def outline(self, y: float) -> Array:
        """Radius in units of the ellipse for each angle of the table at sweep place ``y``."""
        angle = _ANGLE[:, None]
        phases = self._phases + self._twist * y
        radius = 1 + (self._strength * np.cos(self._orders * angle + phases)).sum(axis=1)
        if self._spikes.shape[1]:
            where, height, width = self._spikes
            away = np.angle(np.exp(1j * (angle - where - 0.02 * y)))
            radius = radius + (height * np.exp(-((away / width) ** 2))).sum(axis=1)
            radius = radius + 0.03 * self._ragged(_ANGLE, y)
        shrunk = np.sqrt(max(0.15, 1 - (y / (2.2 * self.size_mm)) ** 2))
        return np.asarray(radius * shrunk, dtype=np.float32)

    def inside_mm(self, x: Array, z: Array, y: float) -> tuple[Array, Array]:
        """How far inside the outline positions lie, mm (negative outside), and their angle."""
        cosine, sine = self._turn
        right, down = x - np.float32(self.x_mm), z - np.float32(self.z_mm)
        u = (right * cosine + down * sine) / np.float32(self._wide)
        v = (down * cosine - right * sine) / np.float32(self._deep)
        angle = np.arctan2(v, u)
        index = ((angle + np.float32(np.pi)) * np.float32(_BINS / (2 * np.pi))).astype(np.int32)
        radius = self.outline(y)[np.minimum(index, _BINS - 1)]
        return (radius - np.hypot(u, v)) * np.float32(self._deep), angle

    def grains(self, x: Array, z: Array, y: float) -> Array | None:
        """Microcalcifications: scattered bright specks of unequal size, each in few frames."""
        total = None
        for across, down, along, strength, size in self._grains.T:
            seen = strength * np.exp(-0.5 * ((y - along) / 0.9) ** 2)
            if seen < 0.3:
                continue
            total = np.zeros_like(x) if total is None else total
            near = (np.abs(x - (self.x_mm + across)) < 1) & (np.abs(z - (self.z_mm + down)) < 1)
            square = (x[near] - self.x_mm - across) ** 2 + (z[near] - self.z_mm - down) ** 2
            total[near] += np.asarray(seen * np.exp(-0.5 * square / size**2), np.float32)
        return total

    def covers(self, x: Array, z: Array, y: float) -> npt.NDArray[np.bool_]:
        """The reference mask."""
        return np.asarray(self.inside_mm(x, z, y)[0] > 0)
