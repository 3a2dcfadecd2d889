"""Complex speckle: scatterers that move with the tissue, and the beam that blurs them.

Fully developed speckle is the envelope of many scatterers per resolution cell: complex circular
Gaussian noise, scaled by the tissue, convolved with the complex envelope of the pulse. The lateral
width of the beam depends on depth only, so the whole lateral convolution is one FFT along the rows
and one product.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from scipy import fft

from clients.phantom.geometry import Geometry
from clients.phantom.noise import Array, stream
from clients.phantom.probes import Probe

Field = npt.NDArray[np.complex64]


def lateral_sigma(probe: Probe, geometry: Geometry) -> Array:
    """Standard deviation of the beam in units of the beam pitch, for each range, (N,)."""
    away = np.abs(geometry.range_N - probe.focus_mm) * probe.spread
    return np.asarray(np.hypot(probe.lateral_mm, away) / geometry.line_mm_N, dtype=np.float32)


def steering(looks: int) -> list[float]:
    """Centre of each look in the lateral spectrum, in units of the beam's bandwidth."""
    return [0.8 * (look - (looks - 1) / 2) for look in range(looks)]


def lateral_transfer(sigma_N: Array, lines: int, looks: int) -> list[Array]:
    """Transfer functions of the beam along the rows, one a look.

    A look is a part of the lateral spectrum, as an angle is in spatial compounding: looks see
    different speckle of the same tissue.

    Args:
        sigma_N: beam width in pitches.
        lines: number of beams L.
        looks: number of looks.

    Returns:
        ``looks`` arrays (N, L), each scaled so that white noise keeps unit variance in every row.
    """
    k_L = (fft.fftfreq(lines) * 2 * np.pi).astype(np.float32)
    transfers = []
    for angle in steering(looks):
        transfer = np.zeros((len(sigma_N), lines), np.float32)
        # A beam hardly wider than the pitch reaches beyond the highest frequency and folds back.
        for fold in (-2 * np.pi, 0.0, 2 * np.pi):
            reach = sigma_N[:, None] * (k_L[None, :] + np.float32(fold)) - np.float32(angle)
            transfer += np.exp(-0.5 * reach**2)
        transfer /= np.sqrt((transfer**2).mean(axis=1, keepdims=True))
        transfers.append(np.asarray(transfer, dtype=np.float32))
    return transfers


def axial_taps(sigma: float) -> Array:
    """The pulse along a beam (sigma in samples), scaled to keep the variance of white noise."""
    reach = max(2, int(np.ceil(2.5 * sigma)))
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    taps = np.exp(-0.5 * (offsets / np.float32(sigma)) ** 2)
    return np.asarray(taps / np.sqrt((taps**2).sum()), dtype=np.float32)


def blur_axial(field_NL: Field, taps: Array) -> Field:
    """Convolution along the beams with a short symmetric pulse, zero beyond both ends."""
    reach = len(taps) // 2
    out: Field = np.multiply(field_NL, taps[reach], dtype=np.complex64)
    for step in range(1, reach + 1):
        weight = taps[reach + step]
        out[step:] += weight * field_NL[:-step]
        out[:-step] += weight * field_NL[step:]
    return out


def blur_lateral(field_NL: Field, transfers: list[Array]) -> Array:
    """The beam: one FFT along the rows, one product and one inverse a look.

    Returns:
        Root mean power over the looks (N, L): the envelope of the compounded beam.
    """
    spectrum = fft.fft(field_NL, axis=1)
    power = np.zeros(field_NL.shape, np.float32)
    for transfer in transfers:
        look = fft.ifft(spectrum * transfer, axis=1)
        power += look.real**2 + look.imag**2
    return np.asarray(np.sqrt(power / np.float32(len(transfers))), dtype=np.float32)


class Scatterers:
    """The scatterers of one sweep, renewed smoothly along it.

    Planes of independent noise lie one slice thickness apart; a frame between two of them mixes
    both with cosine and sine weights. In-plane motion rolls them together with the tissue.

    Args:
        names: what tells this sweep apart (see `noise.stream`).
        shape: (N, L).
        thickness_mm: slice thickness of the probe.
    """

    def __init__(
        self, names: tuple[object, ...], shape: tuple[int, int], thickness_mm: float
    ) -> None:
        self._names = names
        self._shape = shape
        self._thickness = thickness_mm
        self._planes: OrderedDict[int, Field] = OrderedDict()

    def _plane(self, number: int) -> Field:
        if number not in self._planes:
            rng = stream(*self._names, "scatterers", number)
            pairs = rng.standard_normal((*self._shape, 2), dtype=np.float32)
            self._planes[number] = (pairs * np.float32(np.sqrt(0.5))).view(np.complex64)[..., 0]
            while len(self._planes) > 3:
                self._planes.popitem(last=False)
        return self._planes[number]

    def at(self, y_mm: float, down: int, right: int) -> Field:
        """Scatterers at a sweep place, moved by whole samples and beams, (N, L), unit variance."""
        place = y_mm / self._thickness
        first = int(np.floor(place))
        angle = (place - first) * np.pi / 2
        mixed = np.float32(np.cos(angle)) * self._plane(first)
        mixed = mixed + np.float32(np.sin(angle)) * self._plane(first + 1)
        return np.roll(mixed, (down, right), axis=(0, 1))
