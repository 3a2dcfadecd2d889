"""The figures against plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from clients.reconstruction_figures import (
    HIGHEST_PSNR,
    LPIPS_FILES,
    contrast_kept,
    fidelity,
    grey_levels,
    lesion_contrast,
    lpips,
    ms_ssim_scales,
    similarity,
)
from common.errors import InputError
from common.reconstruction import pooled, similarity_cells, wasserstein

RNG = np.random.default_rng(0)


def pair(count: int = 3, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    smooth = np.kron(RNG.integers(20, 230, (count, side // 8, side // 8)), np.ones((8, 8)))
    other = np.clip(smooth + RNG.normal(0, 12, smooth.shape), 0, 255)
    return smooth.astype(np.uint8), other.astype(np.uint8)


def test_psnr_and_rmse_are_those_of_a_plain_loop() -> None:
    images, redrawn = pair()
    found = fidelity(images, redrawn)
    for place in range(3):
        squared = np.mean((images[place].astype(float) - redrawn[place]) ** 2)
        assert found["rmse"][place] == pytest.approx(np.sqrt(squared), rel=1e-6)
        assert found["psnr"][place] == pytest.approx(10 * np.log10(255**2 / squared), rel=1e-6)


@pytest.mark.parametrize("side", [16, 32, 48, 64, 96, 112, 128, 176, 224])
def test_ms_ssim_is_one_for_the_image_itself_and_less_for_another(side: int) -> None:
    images, redrawn = pair(2, side)
    same, other = fidelity(images, images), fidelity(images, redrawn)
    np.testing.assert_allclose(same["ms_ssim"], 1, atol=1e-5)
    assert (same["psnr"] == HIGHEST_PSNR).all()
    assert (other["ms_ssim"] < 0.999).all()
    assert sum(ms_ssim_scales(side)[1]) == pytest.approx(1)


def test_full_size_takes_the_published_scales() -> None:
    sigma, weights = ms_ssim_scales(224)
    assert sigma == 1.5
    assert weights == pytest.approx((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), rel=1e-3)


def test_numbers_of_an_image_do_not_depend_on_its_neighbours() -> None:
    images, redrawn = pair(5)
    together, alone = fidelity(images, redrawn), fidelity(images[3:4], redrawn[3:4])
    for name, values in alone.items():
        assert together[name][3] == pytest.approx(values[0], rel=1e-5)


def test_similarity_is_the_cosine() -> None:
    features, source = RNG.standard_normal((4, 6)), RNG.standard_normal(6)
    plain = [f @ source / np.linalg.norm(f) / np.linalg.norm(source) for f in features]
    np.testing.assert_allclose(similarity(features, source), plain)
    cells = similarity_cells(np.array([-1.0, 0.0, 0.999, 1.0]))
    assert cells.tolist() == [1, *[0] * 31, 1, *[0] * 30, 2]


def test_grey_levels_leave_padding_out() -> None:
    images, _ = pair(2, 16)
    inside = RNG.random(images.shape) < 0.5
    found = grey_levels(images, inside)
    for level in range(256):
        assert found[level] == sum(int(v) == level for v in images[inside])


def test_wasserstein_is_scipys_over_all_pixels() -> None:
    a, b = RNG.integers(0, 200, 500), RNG.integers(30, 256, 800)
    cells = [np.bincount(x, minlength=256) for x in (a, b)]
    assert wasserstein(*cells) == pytest.approx(stats.wasserstein_distance(a, b))
    assert wasserstein(cells[0], cells[0]) == 0


def test_pooling_gives_what_all_images_together_give() -> None:
    values = [RNG.standard_normal(n) * s + s for n, s in ((5, 1.0), (9, 3.0), (1, 2.0))]
    parts = [(len(v), float(v.mean()), float(v.std())) for v in values]
    everything = np.concatenate(values)
    images, mean, deviation = pooled(parts)
    assert images == 15
    assert (mean, deviation) == pytest.approx((everything.mean(), everything.std()))


def test_lesion_contrast_is_inside_minus_ring() -> None:
    image = np.full((1, 64, 64), 100, np.uint8)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 20:30, 20:30] = True
    image[mask] = 40
    picture = np.ones_like(mask)
    image[0, :, 60:] = 255  # far away: no part of the ring
    assert lesion_contrast(image, mask, picture)[0] == -60
    assert np.isnan(lesion_contrast(image, np.zeros_like(mask), picture)[0])
    picture[:] = mask  # no ring is left inside the picture
    assert np.isnan(lesion_contrast(image, mask, picture)[0])


def test_contrast_kept_is_correlation_and_slope() -> None:
    before = np.array([-60.0, -20, -40, np.nan, -10, -30, -55])
    found = contrast_kept(before, before / 2)
    assert found == {
        "contrast_images": 6,
        "contrast_correlation": pytest.approx(1),
        "contrast_ratio": pytest.approx(0.5),
    }
    lost = contrast_kept(before, np.array([1.0, -1, 1, 5, -1, 1, -1]) * 1e-3)
    assert abs(lost["contrast_ratio"]) < 1e-3
    assert contrast_kept(before[:5], before[:5]) == {"contrast_images": 0}  # four tell too much


def test_lpips_runs_where_the_weights_are(tmp_path: Path) -> None:
    images, redrawn = pair(2, 64)
    assert lpips(images, redrawn, tmp_path, "alex") is None
    from torchvision.models import alexnet

    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = alexnet(weights=None).features
    backbone.to_empty(device="cpu")
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.02)
    state = {f"features.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save(state, tmp_path / LPIPS_FILES["alex"])
    found = lpips(images, redrawn, tmp_path, "alex")
    same = lpips(images, images, tmp_path, "alex")
    assert found is not None
    assert same is not None
    np.testing.assert_allclose(same, 0, atol=1e-7)
    assert (found > 0).all()
    nn.init.zeros_(backbone[0].weight)
    state = {f"features.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save(state, tmp_path / LPIPS_FILES["alex"])
    other = lpips(images, redrawn, tmp_path, "alex")
    assert other is not None
    assert (other < found).all()  # the file's own weights are used
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / LPIPS_FILES["alex"])
    with pytest.raises(InputError, match="unreadable"):
        lpips(images, redrawn, tmp_path, "alex")
