import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.objectives.mim import default_unit_px, hide, mask_units, mim_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    across=st.integers(1, 9),
    unit=st.sampled_from([1, 4, 16]),
    percent=st.integers(0, 100),
    seed=st.integers(0, 2**31),
)
def test_masks_are_whole_units_in_the_asked_number(
    batch: int, across: int, unit: int, percent: int, seed: int
) -> None:
    side = across * unit
    mask = mask_units(batch, side, unit=unit, ratio=percent / 100, generator=seeded(seed))
    assert mask.shape == (batch, 1, side, side)
    assert mask.dtype == torch.bool
    expected = -(-percent * across * across // 100)  # the ratio rounded up, in whole numbers
    for image in mask[:, 0]:
        units = 0
        for row in range(0, side, unit):
            for column in range(0, side, unit):
                block = image[row : row + unit, column : column + unit]
                assert block.all() or not block.any()
                units += int(block.all())
        assert units == expected


def test_the_papers_mask_and_its_randomness() -> None:
    mask = mask_units(8, 224, unit=32, ratio=0.6, generator=seeded())
    assert mask.sum(dim=(1, 2, 3)).tolist() == [30 * 32 * 32] * 8  # ceil(.6 * 49) of 7x7 units
    assert torch.equal(mask, mask_units(8, 224, unit=32, ratio=0.6, generator=seeded()))
    assert not torch.equal(mask, mask_units(8, 224, unit=32, ratio=0.6, generator=seeded(1)))
    assert not torch.equal(mask[0], mask[1])
    often = mask_units(4000, 7, unit=1, ratio=0.6, generator=seeded()).float().mean(dim=0)
    assert (often - 30 / 49).abs().max() < 0.04  # no unit is favoured


def test_units_that_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="32 px do not tile 112 px"):
        mask_units(1, 112, unit=32, ratio=0.6)


def test_units_are_two_patches_wide_from_192_px_up() -> None:
    assert [default_unit_px(side) for side in (64, 112, 176, 192, 224)] == [16, 16, 16, 32, 32]
    assert default_unit_px(112, 2) == 32


def loss_by_loops(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> float:
    total, count = 0.0, 0
    B, C, H, W = prediction.shape
    for b in range(B):
        for y in range(H):
            for x in range(W):
                if mask[b, 0, y, x]:
                    for c in range(C):
                        total += abs(float(prediction[b, c, y, x]) - float(target[b, c, y, x]))
                        count += 1
    return total / count


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_is_the_mean_absolute_error_under_the_mask(channels: int) -> None:
    prediction = torch.randn(2, channels, 8, 8, generator=seeded())
    target = torch.rand(2, channels, 8, 8, generator=seeded(1))
    mask = mask_units(2, 8, unit=2, ratio=0.6, generator=seeded(2))
    expected = loss_by_loops(prediction, target, mask)
    assert math.isclose(mim_loss(prediction, target, mask).item(), expected, rel_tol=1e-5)


def test_what_is_visible_has_no_say() -> None:
    mask = mask_units(2, 8, unit=2, ratio=0.5, generator=seeded())
    target = torch.rand(2, 1, 8, 8)
    prediction = torch.rand(2, 1, 8, 8, requires_grad=True)
    loss = mim_loss(prediction, target, mask)
    loss.backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert not prediction.grad[~mask].any()
    assert prediction.grad[mask].all()
    elsewhere = torch.where(mask, prediction.detach(), torch.inf)
    assert mim_loss(elsewhere, target, mask).item() == pytest.approx(loss.item())
    assert mim_loss(prediction, target, torch.zeros_like(mask)).item() == 0


def test_half_precision_does_not_overflow_the_sum() -> None:
    prediction = torch.full((4, 1, 224, 224), 2.0, dtype=torch.float16)
    mask = torch.ones(4, 1, 224, 224, dtype=torch.bool)
    assert mim_loss(prediction, torch.zeros_like(prediction), mask).item() == 2.0


def test_hidden_pixels_are_zero_and_the_rest_untouched() -> None:
    images = torch.rand(3, 1, 32, 32, generator=seeded()) + 0.1
    mask = mask_units(3, 32, unit=16, ratio=0.5, generator=seeded())
    hidden = hide(images, mask)
    assert not hidden[mask].any()
    assert torch.equal(hidden[~mask], images[~mask])


def test_some_masked_units_get_speckle_when_asked() -> None:
    images = torch.rand(2, 1, 80, 80, generator=seeded()) * 0.8 + 0.1
    mask = mask_units(2, 80, unit=16, ratio=0.6, generator=seeded())  # 15 of 25 units
    seen = hide(images, mask, unit=16, noise_ratio=0.2, generator=seeded(5))
    assert torch.equal(seen, hide(images, mask, unit=16, noise_ratio=0.2, generator=seeded(5)))
    assert torch.equal(seen[~mask], images[~mask])
    assert seen.min() >= 0
    assert seen.max() <= 1
    blocks = seen.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)[:, 0].flatten(1, 2)
    masked = mask[:, 0, ::16, ::16].flatten(1)
    speckled = (blocks != 0).any(dim=2) & masked
    assert speckled.sum(dim=1).tolist() == [3, 3]
