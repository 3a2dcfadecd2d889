"""Distances to the sites' aggregates, against plain ways of computing them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from common.bundle import files
from common.bundle.reference import (
    BINS,
    Reference,
    SiteReference,
    Spread,
    distance_of,
    feature_distance,
    grey_distance,
    histogram,
    mask_confidence,
    read_reference,
)
from common.errors import InputError


def site(level: int, feature: float) -> SiteReference:
    return SiteReference(
        images=9, patients=6, grey_G=tuple(histogram(np.full((8, 8), level, np.uint8)).tolist()),
        grey=Spread(mean=0.0, sd=0.5), feature_mean_D=(feature,) * 4, feature_sd_D=(1.0,) * 4,
        feature=Spread(mean=0.0, sd=0.5), confidence=Spread(mean=0.8, sd=0.1),
    )  # fmt: skip


@given(st.lists(st.integers(1, 255), min_size=1, max_size=40), st.integers(0, 30))
def test_the_histogram_leaves_padding_out(levels: list[int], zeros: int) -> None:
    image = np.array([levels + [0] * zeros], np.uint8)
    shares = histogram(image)
    slow = [sum(level * BINS // 256 == b for level in levels) / len(levels) for b in range(BINS)]
    np.testing.assert_allclose(shares, slow, atol=1e-12)


def test_an_image_of_zeros_has_no_histogram() -> None:
    assert not histogram(np.zeros((4, 4), np.uint8)).any()


@given(st.integers(0, 2**31))
def test_grey_distance_is_wasserstein_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(BINS), size=2)
    places = np.arange(BINS) * (256 / BINS)
    assert grey_distance(a, b) == pytest.approx(wasserstein_distance(places, places, a, b))
    assert grey_distance(a, a) == 0


def test_feature_distance_in_spreads() -> None:
    mean, sd = np.zeros(4), np.array([1.0, 2.0, 1.0, 1.0])
    assert feature_distance(np.array([3.0, 6.0, 3.0, 3.0]), mean, sd) == pytest.approx(3)
    # A feature that never moved does not decide alone.
    still = np.array([1.0, 1.0, 1.0, 0.0])
    assert feature_distance(np.array([0, 0, 0, 0.075]), mean, still) == pytest.approx(0.5)


def test_the_nearest_site_counts() -> None:
    reference = Reference(sites={"a": site(40, 0.0), "b": site(200, 10.0)})
    near_b = distance_of(
        histogram(np.full((8, 8), 203, np.uint8)), np.full(4, 10.5), 0.8, reference
    )
    assert near_b.flags == ()
    far = distance_of(histogram(np.full((8, 8), 120, np.uint8)), np.full(4, 5.0), 0.8, reference)
    assert far.flags == ("grey", "feature")


def test_doubt_counts_below_the_least_sure_site_alone() -> None:
    reference = Reference(sites={"a": site(40, 0.0)})
    grey, feature = histogram(np.full((8, 8), 41, np.uint8)), np.zeros(4)
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
