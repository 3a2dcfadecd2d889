"""The memorisation check: copies are refused, fresh images are released."""

import numpy as np
import pytest

from clients.memorisation import (
    ReleaseRefused,
    correlation_vector,
    measure,
    nearest_distances,
    refuse_above,
)

SIDE = 64


def images(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8))
    return np.kron(coarse, np.ones((SIDE // 8, SIDE // 8))).astype(np.uint8)


def features(images_NSS: np.ndarray) -> np.ndarray:
    projection = np.random.default_rng(9).standard_normal((SIDE * SIDE, 24))
    return np.maximum(images_NSS.reshape(len(images_NSS), -1) @ projection, 0)


def test_distances_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((9, 5))
    plain = [min(1 - float(x @ y) / np.linalg.norm(x) / np.linalg.norm(y) for y in b) for x in a]
    np.testing.assert_allclose(nearest_distances(a, b), plain, rtol=1e-12)


def test_the_correlation_is_pearsons_over_cells() -> None:
    one, other = images(1, 0), images(1, 1)
    cells = [image.reshape(32, 2, 32, 2).mean((1, 3)).ravel() for image in (one[0], other[0])]
    expected = 1 - np.corrcoef(cells[0], cells[1])[0, 1]
    found = nearest_distances(correlation_vector(one), correlation_vector(other))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    brighter = (one // 2 + 40).astype(np.uint8)
    near = nearest_distances(correlation_vector(one), correlation_vector(brighter))
    assert near[0] < 1e-4  # brightness and contrast hide no copy


def test_fresh_images_are_released_and_copies_refused() -> None:
    training, held_out = images(60, 1), images(200, 2)
    fresh = measure(images(256, 3), held_out, training, features)
    assert fresh.samples == 256
    assert fresh.share < 0.1
    refuse_above(fresh, 0.1)
    noise = np.random.default_rng(4).integers(-3, 4, (256, SIDE, SIDE))
    copies = np.clip(training[np.arange(256) % 60] + noise, 0, 255).astype(np.uint8)
    copied = measure(copies, held_out, training, features)
    assert copied.features == copied.correlation == 1
    with pytest.raises(ReleaseRefused, match=r"1\.000 \(features\)"):
        refuse_above(copied, 0.1)
    record = copied.record(0.1)
    assert record["released"] is False
    assert set(copied.metrics()) == {
        "memorisation_features", "memorisation_correlation", "memorisation_samples"
    }  # fmt: skip


def test_the_larger_share_counts_and_the_threshold_itself_is_refused() -> None:
    training, held_out = images(60, 1), images(100, 2)
    mixed = images(100, 3)
    mixed[:10] = training[:10]
    found = measure(mixed, held_out, training, features)
    assert found.share == max(found.features, found.correlation) >= 0.1
    with pytest.raises(ReleaseRefused):
        refuse_above(found, found.share)
    refuse_above(found, found.share + 1e-6)


def test_held_out_images_themselves_give_the_percentile() -> None:
    training, held_out = images(60, 1), images(200, 2)
    found = measure(held_out, held_out, training, features)
    assert found.features == pytest.approx(0.05, abs=0.005)
    assert found.correlation == pytest.approx(0.05, abs=0.005)
