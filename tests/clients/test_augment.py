import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clients.augment import classification_view, contrastive_view, segmentation_view


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squares(count: int = 64, side: int = 48) -> Tensor:
    """A bright square off the middle, (B, 1, H, W) in {0, 1}."""
    images = torch.zeros(count, 1, side, side)
    images[:, :, 12:30, 8:22] = 1
    return images


def middles(images_BCHW: Tensor) -> Tensor:
    """(B, 2): the centre of mass, rows then columns, in px."""
    mass = images_BCHW.sum((1, 2, 3))
    at = torch.arange(images_BCHW.shape[-1], dtype=torch.float32)
    rows = (images_BCHW.sum((1, 3)) * at).sum(1) / mass
    columns = (images_BCHW.sum((1, 2)) * at).sum(1) / mass
    return torch.stack([rows, columns], 1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4), side=st.sampled_from([16, 32, 48]))
def test_views_keep_shape_and_range(seed: int, count: int, side: int) -> None:
    images = torch.rand(count, 1, side, side, generator=draws(seed))
    maps = (torch.rand(count, 3, side, side, generator=draws(seed + 1)) > 0.5).float()
    view = contrastive_view(images, draws(seed))
    strong, moved = segmentation_view(images, maps, draws(seed))
    for made in (view, strong):
        assert made.shape == images.shape
        assert made.dtype == torch.float32
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1
        assert bool(torch.isfinite(made).all())
    assert moved.shape == maps.shape
    assert bool(((moved == 0) | (moved == 1)).all())


def test_a_generator_decides_and_nothing_else() -> None:
    images = torch.rand(4, 1, 32, 32, generator=draws(0))
    before = torch.get_rng_state()
    assert torch.equal(contrastive_view(images, draws(1)), contrastive_view(images, draws(1)))
    assert not torch.equal(contrastive_view(images, draws(1)), contrastive_view(images, draws(2)))
    one, same = (segmentation_view(images, images, draws(1)) for _ in range(2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert torch.equal(torch.get_rng_state(), before)
    generator = draws(1)
    assert not torch.equal(contrastive_view(images, generator), contrastive_view(images, generator))


def test_the_images_that_come_in_stay_as_they_were() -> None:
    images = torch.rand(4, 1, 32, 32, generator=draws(0))
    kept = images.clone()
    contrastive_view(images, draws(1))
    segmentation_view(images, images, draws(1))
    assert torch.equal(images, kept)


def test_masks_follow_their_images() -> None:
    images = squares()
    moved_images, moved = segmentation_view(images, images.repeat(1, 2, 1, 1), draws(3))
    assert torch.equal(moved[:, :1], moved[:, 1:])
    # Contrast, brightness and gamma move no edge: half of the image's own height is where it is.
    height = moved_images.amax((2, 3), keepdim=True)
    low = moved_images.amin((2, 3), keepdim=True)
    seen = (moved_images > (height + low) / 2).float()
    overlap = 2 * (seen * moved[:, :1]).sum((1, 2, 3)) / (seen + moved[:, :1]).sum((1, 2, 3))
    assert float(overlap.min()) > 0.9
    assert float((middles(moved[:, :1]) - middles(images)).abs().mean()) > 2
    assert float((middles(seen) - middles(moved[:, :1])).abs().max()) < 0.7


def test_about_half_of_the_masks_are_mirrored() -> None:
    """A square whose bright half is on one side tells a flip from a rotation of 15 degrees."""
    images = torch.zeros(200, 1, 48, 48)
    images[:, :, 14:34, 14:24] = 1
    whole = torch.zeros(200, 1, 48, 48)
    whole[:, :, 14:34, 14:34] = 1
    _, moved = segmentation_view(images, torch.cat([images, whole], 1), draws(5))
    flipped = middles(moved[:, :1])[:, 1] > middles(moved[:, 1:])[:, 1]
    assert 0.38 < float(flipped.float().mean()) < 0.62
    view = contrastive_view(images, draws(5), crop=(1.0, 1.0), jitter=0.0)
    both = contrastive_view(whole, draws(5), crop=(1.0, 1.0), jitter=0.0)
    flipped = middles(view)[:, 1] > middles(both)[:, 1]
    assert 0.38 < float(flipped.float().mean()) < 0.62


def test_nothing_is_rotated_or_scaled_beyond_what_is_said() -> None:
    images = squares(200)
    _, moved = segmentation_view(images, images, draws(7))
    area = moved.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert float(area.max()) < 1.25**2 + 0.1
    assert float(area.min()) > 0.8**2 - 0.15
    assert float(area.max()) > 1.3
    assert float(area.min()) < 0.8


def test_what_comes_in_from_outside_weighs_nothing() -> None:
    ones = torch.ones(64, 1, 32, 32)
    images, weights = segmentation_view(ones, ones, draws(9))
    corners = torch.cat([weights[..., 0, 0], weights[..., -1, -1]])
    assert float(corners.min()) == 0
    assert float(weights.min()) == 0
    assert bool((weights[images == images.amax((2, 3), keepdim=True)] == 1).float().mean() > 0.99)
    # The middle of an image never comes from outside.
    assert bool((weights[..., 16, 16] == 1).all())


def test_black_stays_near_black() -> None:
    images, _ = segmentation_view(torch.zeros(8, 1, 16, 16), torch.zeros(8, 1, 16, 16), draws(1))
    assert float(images.max()) < 1e-3


def test_options_of_the_contrastive_view() -> None:
    images = torch.rand(64, 1, 32, 32, generator=draws(0)) * 0.5 + 0.2
    still = contrastive_view(images, draws(1), crop=(1.0, 1.0), jitter=0.4, jitter_probability=0.0)
    jittered = contrastive_view(
        images, draws(1), crop=(1.0, 1.0), jitter=0.4, jitter_probability=1.0
    )
    mean = images.mean((1, 2, 3))
    assert float((still.mean((1, 2, 3)) - mean).abs().max()) < 0.05
    assert float((jittered.mean((1, 2, 3)) / still.mean((1, 2, 3))).std()) > 0.1
    narrow = contrastive_view(images, draws(1), crop=(0.1, 0.1), jitter=0.0)
    assert float((narrow[..., 1:] - narrow[..., :-1]).abs().mean()) < 0.7 * float(
        (still[..., 1:] - still[..., :-1]).abs().mean()
    )


@pytest.mark.parametrize("jitter", [0.0, 0.4, 0.99])
def test_a_crop_lies_inside_the_image(jitter: float) -> None:
    """No padding is drawn in: a bright image stays bright up to its last row."""
    images = torch.ones(32, 1, 32, 32)
    view = contrastive_view(images, draws(2), jitter=jitter, jitter_probability=0.0)
    assert float(view[..., 1:-1, 1:-1].min()) > 0.99


def test_classification_turns_and_flips_and_does_no_more() -> None:
    images = squares(400)
    made = classification_view(images, draws(0), degrees=20.0)
    assert made.shape == images.shape
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    # A rotation about the middle keeps each square's distance from it, and its mass.
    middle = (48 - 1) / 2
    before = (middles(images) - middle).norm(dim=1)
    after = (middles(made) - middle).norm(dim=1)
    assert torch.allclose(before, after, atol=0.3)
    assert torch.allclose(images.sum((1, 2, 3)), made.sum((1, 2, 3)), rtol=0.02)
    offset = middles(made) - middle
    flipped = offset[:, 1] > 0
    assert 0.4 < float(flipped.float().mean()) < 0.6
    start = (middles(images) - middle)[0]
    angles = torch.atan2(offset[:, 0], torch.where(flipped, -offset[:, 1], offset[:, 1]))
    turned = torch.rad2deg(angles - torch.atan2(start[0], start[1])).abs()
    turned = torch.minimum(turned, 360 - turned)
    assert float(turned.max()) < 20.5
    assert float(turned.mean()) == pytest.approx(10, abs=1)
    assert torch.equal(made, classification_view(images, draws(0), degrees=20.0))
    assert not torch.equal(made, classification_view(images, draws(1), degrees=20.0))
