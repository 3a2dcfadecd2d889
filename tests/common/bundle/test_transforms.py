"""MONAI's way to the square and back is ours: pixel for pixel, whatever the size."""

import numpy as np
import pytest
import torch

from clients.data.preprocess import resize, square_image
from common.bundle.transforms import labels, restore, square

SIZES = [(48, 48), (31, 67), (90, 40), (32, 32), (10, 13), (224, 300)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_square_is_the_cache_s(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
    ours = square_image(grey, 32).astype(np.int16)
    theirs = (square(torch.from_numpy(grey)[None], 32)[0] * 255).round().numpy().astype(np.int16)
    # Two implementations of one filter: now and then a half is rounded the other way.
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.01


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_way_back_fits_to_the_pixel(height: int, width: int) -> None:
    rng = np.random.default_rng(width)
    plane = rng.random((32, 32), dtype=np.float32)
    back = restore(torch.from_numpy(plane)[None], height, width)
    assert back.shape == (1, height, width)
    longer = max(height, width)
    np.testing.assert_allclose(back[0].numpy(), resize(plane, longer)[:height, :width], atol=1e-5)


def test_labels() -> None:
    one = torch.tensor([[[0.2, 0.5, 0.9]]])
    assert labels(one, 0.5).tolist() == [[[0, 255, 255]]]
    two = torch.tensor([[[0.6, 0.2, 0.7]], [[0.6, 0.4, 0.9]]])
    assert labels(two, 0.5).tolist() == [[[1, 0, 2]]]
