import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.objectives.dice_bce import dice_bce


def by_loops(
    logits: Tensor, targets: Tensor, weights: Tensor, epsilon: float, pooled: bool
) -> float:
    """P1 3.2.1 with plain loops: Dice per class (and image, unless pooled), BCE over all pixels."""
    B, C, H, W = logits.shape
    bce = mass = 0.0
    sums: dict[tuple[int, int], list[float]] = {}
    for b in range(B):
        for c in range(C):
            overlap_total = sums.setdefault((0 if pooled else b, c), [0.0, 0.0])
            for y in range(H):
                for x in range(W):
                    p = 1 / (1 + math.exp(-float(logits[b, c, y, x])))
                    t, w = float(targets[b, c, y, x]), float(weights[b, c, y, x])
                    bce -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
                    mass += w
                    overlap_total[0] += w * p * t
                    overlap_total[1] += w * (p + t)
    dice = [1 - (2 * o + epsilon) / (t + epsilon) for o, t in sums.values()]
    return sum(dice) / len(dice) + bce / mass


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(1, 3),
    pooled=st.booleans(),
    epsilon=st.sampled_from([1.0, 1e-3]),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_loops(
    batch: int, classes: int, pooled: bool, epsilon: float, weighted: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, classes, 4, 5)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.rand(shape, generator=generator) > 0.6
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    expected = by_loops(
        logits, targets, weights if weighted else torch.ones(shape), epsilon, pooled
    )
    ours = dice_bce(
        logits,
        targets,
        epsilon=epsilon,
        pooled=pooled,
        weights=weights if weighted else None,
    )
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_weights_of_one_change_nothing_and_zeros_hide() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 1, 6, 6), (torch.rand(2, 1, 6, 6) > 0.5).float()
    plain = dice_bce(logits, targets)
    torch.testing.assert_close(dice_bce(logits, targets, weights=torch.ones(1, 1, 1, 1)), plain)
    seen = torch.zeros(2, 1, 6, 6)
    seen[0] = 1
    alone = dice_bce(logits[:1], targets[:1])
    torch.testing.assert_close(dice_bce(logits, targets, weights=seen), alone)
    assert dice_bce(logits, targets, weights=torch.zeros(1, 1, 1, 1)).isfinite()


@pytest.mark.parametrize("pooled", [True, False])
def test_a_batch_without_foreground_is_defined_and_teaches(pooled: bool) -> None:
    logits = torch.zeros(2, 1, 16, 16, requires_grad=True)
    loss = dice_bce(logits, torch.zeros(2, 1, 16, 16), pooled=pooled)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert logits.grad is not None
    assert (logits.grad > 0).all()  # every pixel is pushed towards background
    sure = torch.full((2, 1, 16, 16), -30.0)
    assert dice_bce(sure, torch.zeros(2, 1, 16, 16), pooled=pooled).item() == pytest.approx(0)


def test_perfect_is_zero_and_pooling_matters_across_images_only() -> None:
    targets = torch.zeros(2, 1, 8, 8)
    targets[0, :, :4] = 1
    perfect = (targets * 2 - 1) * 40
    assert dice_bce(perfect, targets).item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert dice_bce(logits, targets) != dice_bce(logits, targets, pooled=False)
    one = dice_bce(logits[:1], targets[:1])
    torch.testing.assert_close(one, dice_bce(logits[:1], targets[:1], pooled=False))


def test_half_precision_and_extreme_logits_stay_finite() -> None:
    logits = torch.full((8, 1, 224, 224), 60.0, dtype=torch.float16)
    targets = torch.ones(8, 1, 224, 224, dtype=torch.uint8)
    loss = dice_bce(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert dice_bce(torch.full((1, 1, 4, 4), -1e4), torch.ones(1, 1, 4, 4)).isfinite()
