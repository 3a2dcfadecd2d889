"""Distances to the sites' aggregates, against plain ways of computing them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis

from common.bundle import files
from common.bundle.reference import (
    GREY,
    Reference,
    SiteReference,
    Spread,
    describe,
    distance_of,
    feature_distance,
    grey_distance,
    mask_confidence,
    read_reference,
    shrunk_covariance,
)
from common.errors import InputError


def site(level: float, feature: float) -> SiteReference:
    return SiteReference(
        images=9, patients=6, grey_mean_G=(level,) * GREY,
        grey_covariance_GG=tuple(map(tuple, np.eye(GREY).tolist())),
        grey=Spread(mean=0.0, sd=0.5), feature_mean_D=(feature,) * 4, feature_sd_D=(1.0,) * 4,
        feature=Spread(mean=0.0, sd=0.5), confidence=Spread(mean=0.8, sd=0.1),
    )  # fmt: skip


def frame(seed: int = 0, scale: float = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.rayleigh(scale, (40, 56)), 1, 255).astype(np.uint8)


def test_the_description_leaves_padding_out() -> None:
    padded = np.zeros((56, 56), np.uint8)
    padded[:40] = frame()
    np.testing.assert_allclose(describe(padded), describe(frame()))
    assert describe(padded).shape == (GREY,)
    assert not describe(np.zeros((8, 8), np.uint8)).any()


@pytest.mark.parametrize(
    "change",
    [lambda x: x // 2, lambda x: x.T.copy(), lambda x: x[::2, ::2].repeat(2, 0).repeat(2, 1)],
)
def test_brightness_direction_and_texture_are_in_it(change) -> None:  # type: ignore[no-untyped-def]
    level = frame().astype(float) * np.linspace(1, 0.3, 40)[:, None]  # darker with depth
    image = level.astype(np.uint8)
    assert np.abs(describe(change(image)) - describe(image)).max() > 0.1


@pytest.mark.parametrize("image", [np.ones((1, 9), np.uint8), np.ones((9, 1), np.uint8)])
def test_the_thinnest_images_have_a_finite_description(image: np.ndarray) -> None:
    assert np.isfinite(describe(image)).all()


@given(st.integers(0, 2**31))
def test_grey_distance_is_mahalanobis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, GREY))
    covariance = shrunk_covariance(x, 20)
    slow = mahalanobis(x[0], x[1], np.linalg.inv(covariance)) / GREY**0.5
    assert grey_distance(x[0], x[1], covariance) == pytest.approx(slow)
    assert grey_distance(x[0], x[0], covariance) == 0


def test_few_patients_draw_the_covariance_to_its_diagonal() -> None:
    x = np.random.default_rng(0).normal(size=(30, 1)) + np.zeros((30, GREY))
    off = [abs(shrunk_covariance(x, n)[0, 1]) for n in (5, 20, 1000)]
    assert off[0] < off[1] < off[2] < np.cov(x.T)[0, 1]
    assert np.linalg.eigvalsh(shrunk_covariance(x, 5)).min() > 0


def test_feature_distance_in_spreads() -> None:
    mean, sd = np.zeros(4), np.array([1.0, 2.0, 1.0, 1.0])
    assert feature_distance(np.array([3.0, 6.0, 3.0, 3.0]), mean, sd) == pytest.approx(3)
    # A feature that never moved does not decide alone.
    still = np.array([1.0, 1.0, 1.0, 0.0])
    assert feature_distance(np.array([0, 0, 0, 0.075]), mean, still) == pytest.approx(0.5)


def test_the_nearest_site_counts() -> None:
    reference = Reference(sites={"a": site(40, 0.0), "b": site(200, 10.0)})
    near_b = distance_of(np.full(GREY, 199.5), np.full(4, 10.5), 0.8, reference)
    assert near_b.flags == ()
    far = distance_of(np.full(GREY, 120.0), np.full(4, 5.0), 0.8, reference)
    assert far.flags == ("grey", "feature")


def test_doubt_counts_below_the_least_sure_site_alone() -> None:
    reference = Reference(sites={"a": site(40, 0.0)})
    grey, feature = np.full(GREY, 40.2), np.zeros(4)
    assert distance_of(grey, feature, 1.0, reference).flags == ()
    assert distance_of(grey, feature, 0.45, reference).flags == ("confidence",)


def test_mask_confidence_over_the_mask_or_over_all() -> None:
    pred = np.array([[[0.9, 0.1], [0.2, 0.7]]])
    sure = np.array([[[1.0, 0.0], [0.0, 0.5]]])
    assert mask_confidence(pred, sure, 0.5) == pytest.approx(0.75)
    assert mask_confidence(pred * 0.1, sure, 0.5) == pytest.approx(0.375)


def test_reading(tmp_path: Path) -> None:
    assert read_reference(tmp_path, {}) is None
    names = {files.REFERENCE: ""}
    whole = Reference(sites={"a": site(40, 0.0)}).model_dump(mode="json")
    files.write_json(tmp_path / files.REFERENCE, whole)
    assert read_reference(tmp_path, names) == Reference(sites={"a": site(40, 0.0)})
    files.write_json(tmp_path / files.REFERENCE, {**whole, "version": 3})
    with pytest.raises(InputError, match="bundle version 3 is newer"):
        read_reference(tmp_path, names)
    few = json.loads(json.dumps(whole))
    few["sites"]["a"]["images"] = 4
    files.write_json(tmp_path / files.REFERENCE, few)
    with pytest.raises(InputError, match="images"):
        read_reference(tmp_path, names)
