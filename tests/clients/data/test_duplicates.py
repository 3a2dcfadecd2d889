from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from clients.data.duplicates import BITS, NEAR_BITS, near_pairs, perceptual_hash

Grey = NDArray[Any]


def scene(seed: int, height: int = 120, width: int = 160) -> Grey:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 6)
    grey = (noise - noise.min()) / (noise.max() - noise.min()) * 200 + 20
    picture: Grey = grey.astype(np.uint8)
    return picture


def distance(a: Grey, b: Grey) -> int:
    return int((perceptual_hash(a) != perceptual_hash(b)).sum())


def test_the_same_picture_in_another_guise() -> None:
    picture = scene(0)
    smaller = np.asarray(Image.fromarray(picture).resize((80, 60)))
    assert distance(picture, smaller) <= 8
    assert distance(picture, (picture * 0.6 + 30).astype(np.uint8)) <= 8
    noisy = picture + np.random.default_rng(1).normal(0, 6, picture.shape)
    assert distance(picture, noisy) <= 16


def test_strangers_are_far() -> None:
    apart = [distance(scene(a), scene(b)) for a in range(8) for b in range(a)]
    assert min(apart) > 2 * NEAR_BITS


@pytest.mark.parametrize("count", [5, 1500])
def test_pairs_equal_the_plain_loop(count: int) -> None:
    rng = np.random.default_rng(2)
    hashes = rng.random((count, BITS)) < 0.5
    copies = rng.choice(count, (count // 5, 2))
    for a, b in copies:
        hashes[a] = hashes[b] ^ (rng.random(BITS) < 0.13)
    hashes[[0, 3]] = False  # pictures of one grey resemble nothing
    some = range(count) if count < 100 else range(40)
    expected = {
        (i, j)
        for i in some
        for j in range(i + 1, count)
        if hashes[i].any() and hashes[j].any() and (hashes[i] ^ hashes[j]).sum() <= NEAR_BITS
    }
    found = list(near_pairs(hashes))
    assert len(found) == len(set(found))
    assert {pair for pair in found if pair[0] in some} == expected


def test_one_grey_has_an_empty_hash() -> None:
    assert not perceptual_hash(np.full((40, 50), 90, np.uint8)).any()
