"""`sonofed bench phantom`: the beam's point spread in one row-wise FFT against the plain way.

The plain way convolves each depth with its own two-dimensional kernel, row by row. Both get the
same scatterers in the same run, and their largest difference is reported beside the times.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from clients.phantom import speckle
from clients.phantom.anatomy import ANATOMIES
from clients.phantom.geometry import MARGIN
from clients.phantom.noise import Array
from clients.phantom.probes import PROBES, Probe
from clients.phantom.render import Camera

Record = dict[str, str | float]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def plain_point_spread(
    field_NL: speckle.Field, sigma_N: Array, taps: Array, steering: list[float]
) -> Array:
    """The envelope by direct convolution with one two-dimensional kernel per depth and look.

    Args:
        field_NL: the echoes before the beam, N samples on L beams.
        sigma_N: lateral standard deviation in beams at each depth.
        taps: the pulse along the beam.
        steering: see `speckle.steering`.

    Returns:
        The envelope (N, L), zero beyond the ends of a beam and periodic across, as the FFT is.
    """
    samples, lines = field_NL.shape
    reach = len(taps) // 2
    padded = np.pad(field_NL, ((reach, reach), (0, 0)))
    power = np.zeros((samples, lines), np.float32)
    for row in range(samples):
        sigma = float(sigma_N[row])
        width = min(lines // 2 - 1, int(np.ceil(5 * sigma)))
        across = np.arange(-width, width + 1) / sigma
        window = np.pad(padded[row : row + len(taps)], ((0, 0), (width, width)), mode="wrap")
        for angle in steering:
            lateral = np.exp(-0.5 * across**2 - 1j * angle * across)
            lateral /= np.sqrt((np.abs(lateral) ** 2).sum())
            kernel = (taps[:, None] * lateral[None, :]).astype(np.complex64)
            patches = np.lib.stride_tricks.sliding_window_view(window, kernel.shape)[0]
            power[row] += np.abs(np.einsum("lij,ij->l", patches, kernel)) ** 2
    return np.asarray(np.sqrt(power / np.float32(len(steering))), dtype=np.float32)


class _Recorder(Camera):
    """Keeps the echoes that reach the point spread, so that both ways get the same."""

    field: speckle.Field

    def envelope(self, field_NL: speckle.Field) -> Array:
        self.field = field_NL.copy()
        return super().envelope(field_NL)


class _Plain(Camera):
    """The whole frame with the plain point spread."""

    def __init__(self, probe: Probe, names: tuple[object, ...], side: int) -> None:
        super().__init__(probe, names, names, side)
        self._sigma_N = speckle.lateral_sigma(probe, self.geometry)
        self._pulse = speckle.axial_taps(probe.axial_mm / self.geometry.sample_mm)
        self._steering = speckle.steering(probe.looks)

    def envelope(self, field_NL: speckle.Field) -> Array:
        return plain_point_spread(field_NL, self._sigma_N, self._pulse, self._steering)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor time of one call, seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def _record(name: str, ours: float, reference: float, difference: float) -> Record:
    return {
        "name": name, "ours": 1e3 * ours, "reference": 1e3 * reference,
        "unit": "ms CPU per frame", "ratio": reference / ours, "peak_rss_mb": peak_rss_mb(),
        "largest_difference": difference,
    }  # fmt: skip


def run(side: int = 224, repeats: int = 9) -> Iterator[Record]:
    """Yields two records per probe, the point spread alone and the whole frame of a wrist.

    Args:
        side: pixels of the square picture.
        repeats: calls behind each median of ours; the plain way is timed once.

    Yields:
        ``name, ours, reference, unit, ratio, peak_rss_mb`` and ``largest_difference`` (of the
        envelope: in its standard deviations; of the picture: in grey levels of 255).
    """
    for name, probe in PROBES.items():
        names: tuple[object, ...] = ("bench", name)
        anatomy = ANATOMIES["wrist"](names, 0)
        camera, plain = _Recorder(probe, names, names, side), _Plain(probe, names, side)
        picture, _ = camera.shoot(anatomy, 0)
        field = camera.field
        fast, slow = Camera.envelope(camera, field), plain.envelope(field)
        inner = slice(MARGIN, -MARGIN)
        difference = float(np.abs(fast - slow)[:, inner].max() / slow.std())
        yield _record(
            f"phantom point spread {name}",
            _seconds(partial(Camera.envelope, camera, field), repeats),
            _seconds(partial(plain.envelope, field), 1),
            difference,
        )
        other, _ = plain.shoot(anatomy, 0)
        yield _record(
            f"phantom frame {name}",
            _seconds(partial(camera.shoot, anatomy, 1), repeats),
            _seconds(partial(plain.shoot, anatomy, 1), 1),
            float(255 * np.abs(picture - other).max()),
        )
