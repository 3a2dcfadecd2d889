"""The pictures: masks lie on what they name, videos move smoothly, frames are quick."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clients.phantom import PROBES, speckle
from clients.phantom.anatomy import ANATOMIES
from clients.phantom.noise import Texture, Wave, stream
from clients.phantom.render import Camera

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def shot(anatomy: str, probe: str, patient: int, frame: int = 0, side: int = 160) -> Any:
    names = (0, anatomy, probe, patient)
    camera = Camera(PROBES[probe], (*names, 0), names, side)
    return camera.shoot(ANATOMIES[anatomy](names, 0), frame)


@pytest.mark.parametrize("probe", list(PROBES))
def test_wrist_mask_lies_on_the_bone_line(probe: str) -> None:
    contrasts = []
    for patient in range(6):
        picture, mask = shot("wrist", probe, patient)
        assert 0.003 < mask.mean() < 0.15
        assert picture.min() >= 0
        assert picture.max() <= 1
        shift = round(0.04 * len(mask))
        deeper = np.roll(mask, 2 * shift, axis=0) & ~mask
        shallower = np.roll(mask, -shift, axis=0) & ~mask
        contrasts.append(
            picture[mask].mean() - max(picture[deeper].mean(), picture[shallower].mean())
        )
    # Brighter than the tissue above it and the shadow below it, in almost every patient.
    assert np.median(contrasts) > 0.05
    assert np.mean(np.array(contrasts) > 0) >= 0.8


@pytest.mark.parametrize("probe", list(PROBES))
def test_breast_lesion_is_darker_than_its_surroundings(probe: str) -> None:
    differences = []
    for patient in range(6):
        picture, mask = shot("breast", probe, patient)
        assert mask.any()
        reach = max(4, len(mask) // 20)
        sides = (np.roll(mask, reach, 1) | np.roll(mask, -reach, 1)) & ~mask & (picture > 0)
        differences.append(picture[sides].mean() - picture[mask].mean())
    assert np.median(differences) > 0.05


def test_nothing_is_drawn_or_marked_outside_the_field_of_view() -> None:
    names = ("view",)
    for probe in PROBES.values():
        camera = Camera(probe, names, names, 160)
        picture, mask = camera.shoot(ANATOMIES["wrist"](names, 0), 0)
        outside = ~camera.geometry.inside_SS
        assert not mask[outside].any()
        if not probe.ticks:
            assert not picture[outside].any()
    assert Camera(PROBES["convex"], names, names, 160).geometry.inside_SS.mean() < 0.8


@pytest.mark.parametrize("probe", list(PROBES))
def test_neighbouring_frames_agree_more_than_distant_ones(probe: str) -> None:
    names = ("sweep", probe)
    camera = Camera(PROBES[probe], names, names, 160)
    anatomy = ANATOMIES["breast"](names, 0)
    frames = [camera.shoot(anatomy, frame)[0] for frame in (0, 1, 12)]
    near = np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]
    far = np.corrcoef(frames[0].ravel(), frames[2].ravel())[0, 1]
    assert 0.5 < near < 0.9999
    assert far < near - 0.05


def test_a_frame_does_not_depend_on_the_frames_before_it() -> None:
    names = ("alone",)
    anatomy = ANATOMIES["wrist"](names, 0)
    camera = Camera(PROBES["linear_pocket"], names, names, 96)
    for frame in range(12):
        last, last_mask = camera.shoot(anatomy, frame)
    alone, alone_mask = Camera(PROBES["linear_pocket"], names, names, 96).shoot(anatomy, 11)
    assert np.array_equal(last, alone)
    assert np.array_equal(last_mask, alone_mask)


def test_point_spread_keeps_variance_and_widens_with_the_beam() -> None:
    rng = stream("white")
    pairs = rng.standard_normal((400, 256, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    field = pairs.view(np.complex64)[..., 0]
    sigma = np.linspace(1, 5, 400, dtype=np.float32)
    for looks in (1, 3):
        envelope = speckle.blur_lateral(field, speckle.lateral_transfer(sigma, 256, looks))
        assert np.mean(envelope**2) == pytest.approx(1, abs=0.03)
        smooth = [np.corrcoef(part[:, :-3].ravel(), part[:, 3:].ravel())[0, 1]
                  for part in (envelope[:100], envelope[-100:])]  # fmt: skip
        assert smooth[1] > smooth[0] + 0.2
    # Rayleigh speckle: mean over standard deviation of the envelope is 1.91; looks raise it.
    ratios = []
    for looks in (1, 3):
        envelope = speckle.blur_lateral(field, speckle.lateral_transfer(sigma, 256, looks))
        ratios.append(float(envelope.mean() / envelope.std()))
    assert ratios[0] == pytest.approx(1.91, abs=0.08)
    assert ratios[1] > 2.2


def test_noise_has_unit_variance_and_depends_on_names_alone() -> None:
    x = np.linspace(-20, 20, 400, dtype=np.float32)
    waves = np.concatenate([Wave(stream("wave", n), 3.0)(x, 1.0) for n in range(60)])
    assert waves.std() == pytest.approx(1, abs=0.1)
    grid_x, grid_z = np.meshgrid(x, x)
    texture = Texture(stream("texture"), 0.5, 1.5)
    for y in (0.0, 1.7, -3.3):
        assert texture(grid_x, grid_z, y).std() == pytest.approx(1, abs=0.2)
    assert stream(1, "a").integers(1 << 30) == stream(1, "a").integers(1 << 30)
    assert stream(1, "a").integers(1 << 30) != stream(1, "b").integers(1 << 30)


@pytest.mark.parametrize("anatomy", list(ANATOMIES))
def test_a_frame_takes_less_than_the_promised_time(anatomy: str) -> None:
    """60 ms of CPU per 224 px frame are promised; twice that is allowed to a busy machine."""
    for name, probe in PROBES.items():
        names = ("speed", name)
        camera = Camera(probe, names, names, 224)
        body = ANATOMIES[anatomy](names, 0)
        camera.shoot(body, 0)
        times = []
        for frame in range(1, 4):
            start = time.process_time()
            camera.shoot(body, frame)
            times.append(time.process_time() - start)
        assert min(times) < 0.120
