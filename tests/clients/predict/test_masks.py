"""The way back to the original frame, to the pixel."""

import numpy as np
import pytest
import torch

from clients.predict.masks import areas, entropy_confidence, full_size, label_plane, segment
from clients.predict.sources import Shot
from common.bundle.transforms import labels
from common.fusion import confidence_map


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (301, 97), (20, 16)])
def test_a_square_painted_in_the_original_comes_back_to_its_place(height: int, width: int) -> None:
    """What a perfect network would say of a mask comes back as that mask, but for its rim."""
    from clients.data.preprocess import resize

    original = np.zeros((height, width), np.float32)
    top, left = height // 4, width // 3
    original[top : top + height // 2, left : left + width // 3] = 1
    shot = Shot(np.zeros((height, width), np.uint8), 0, 0, height, width)
    result = segment(resize(original, 64)[None], shot, 0.5)
    assert result.labels_HW.shape == (height, width)
    step = max(1, round(max(height, width) / 64))
    wrong = (result.labels_HW > 0) != (original > 0)
    rim = np.zeros_like(wrong)
    for edge in (top, top + height // 2):
        rim[max(0, edge - step) : edge + step] = True
    for edge in (left, left + width // 3):
        rim[:, max(0, edge - step) : edge + step] = True
    assert not (wrong & ~rim).any()


def test_what_was_cut_out_lies_where_it_was() -> None:
    shot = Shot(np.zeros((32, 32), np.uint8), top=10, left=40, height=60, width=90)
    result = segment(np.ones((1, 16, 16), np.float32), shot, 0.5)
    assert result.labels_HW.sum() == 32 * 32
    assert result.labels_HW[10:42, 40:72].all()
    assert (result.pred_CHW[0, :10] == 0).all()
    assert (result.confidence_HW == 1).all()


def test_labels_are_those_of_monai_s_runner() -> None:
    rng = np.random.default_rng(0)
    pred = np.round(rng.random((3, 20, 30)), 1).astype(np.float32)  # with equals among them
    theirs = labels(torch.from_numpy(pred), 0.5)[0].numpy()
    np.testing.assert_array_equal(label_plane(pred, 0.5), theirs)
    counted = areas(label_plane(pred, 0.5), 3)
    assert counted == [int((theirs == k).sum()) for k in (1, 2, 3)]


def test_confidence_is_the_infusion_head_s() -> None:
    p = np.linspace(0, 1, 101, dtype=np.float32)
    theirs = confidence_map(torch.from_numpy(p), "entropy").numpy()
    np.testing.assert_allclose(entropy_confidence(p), theirs, atol=1e-6)


def test_full_size_cuts_the_padding_off() -> None:
    plane = np.zeros((8, 8), np.float32)
    plane[:4] = 1
    assert full_size(plane, 50, 100).shape == (50, 100)
    assert full_size(plane, 50, 100).mean() > 0.9
    assert full_size(plane, 100, 50)[60:].max() == 0
