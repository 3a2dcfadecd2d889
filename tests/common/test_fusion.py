import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.fusion import (
    Form,
    Scope,
    confidence_map,
    fusion_weights,
    infuse,
    normalised_confidence,
)

NAMED = ["entropy", "margin", "mean"]


def confidence_of(p: float, kind: str) -> float:
    if kind == "mean":
        return 1.0
    if kind == "margin":
        return abs(2 * p - 1)
    h = sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)
    return 1 - h / math.log(2)


def by_loops(members: list[Tensor], kind: str, form: str, scope: str) -> Tensor:
    """P1 3.2.3 pixel by pixel, with the readings that method fixes."""
    M, (B, C, H, W) = len(members), members[0].shape
    pixels = [(b, c, y, x) for b in range(B) for c in range(C) for y in range(H) for x in range(W)]
    scaled: list[dict[tuple[int, ...], float]] = []
    for p in members:
        raw = {at: confidence_of(float(p[at]), kind) for at in pixels}
        groups: dict[tuple[int, ...], list[float]] = {}
        for (b, c, _, _), value in raw.items():
            groups.setdefault((b if scope == "image" else 0, c), []).append(value)
        scaled.append({})
        for at, value in raw.items():
            group = groups[(at[0] if scope == "image" else 0, at[1])]
            low, high = min(group), max(group)
            scaled[-1][at] = 1.0 if high - low < 1e-6 else (value - low) / (high - low)
    out = torch.empty(B, C, H, W, dtype=torch.float64)
    for at in pixels:
        ps = [float(p[at]) for p in members]
        cs = [s[at] for s in scaled]
        weighted = sum(p * c for p, c in zip(ps, cs, strict=True))
        if form == "paper":
            out[at] = weighted / M
        else:
            out[at] = weighted / (sum(cs) + 1e-6) if sum(cs) > 1e-6 else sum(ps) / M
    return out


@settings(max_examples=50, deadline=None)
@given(
    members=st.integers(1, 4),
    batch=st.integers(1, 3),
    classes=st.integers(1, 2),
    kind=st.sampled_from(NAMED),
    form=st.sampled_from(["normalised", "paper"]),
    scope=st.sampled_from(["image", "batch"]),
    seed=st.integers(0, 1000),
)
def test_equals_the_loops(
    members: int, batch: int, classes: int, kind: Any, form: Form, scope: Scope, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (members, batch, classes, 3, 4)
    p = torch.rand(shape, generator=generator, dtype=torch.float64)
    p = (1.2 * p - 0.1).clamp(0, 1)  # some are exactly 0 or 1
    fused = infuse(list(p), confidence=kind, form=form, scope=scope)
    assert fused.shape == shape[1:]
    torch.testing.assert_close(fused, by_loops(list(p), kind, form, scope), atol=1e-9, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    p=st.lists(
        st.sampled_from([0.0, 1e-45, 1e-20, 0.25, 0.5, 1 - 1e-7, 1.0]), min_size=8, max_size=8
    ),
    kind=st.sampled_from(NAMED),
    form=st.sampled_from(["normalised", "paper"]),
    scope=st.sampled_from(["image", "batch"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_finite_and_between_the_members_whatever_they_say(
    p: list[float], kind: Any, form: Form, scope: Scope, dtype: torch.dtype
) -> None:
    pair = list(torch.tensor(p, dtype=dtype).reshape(2, 1, 1, 2, 2))
    fused = infuse(pair, confidence=kind, form=form, scope=scope)
    assert fused.isfinite().all()
    assert fused.min() >= 0
    assert fused.max() <= 1
    weights = fusion_weights(pair, confidence=kind, scope=scope)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(dim=0), torch.ones_like(fused))


def test_the_surer_branch_is_listened_to() -> None:
    unsure = torch.tensor([[[[0.4, 0.9], [0.5, 0.6]]]])
    sure = torch.tensor([[[[1.0, 0.8], [0.5, 0.0]]]])
    fused = infuse([unsure, sure])
    weights = fusion_weights([unsure, sure])
    assert fused[0, 0, 0, 0] > 0.9
    assert weights[1, 0, 0, 0, 0] > 0.9
    assert fused[0, 0, 1, 1] < 0.1
    assert fused[0, 0, 1, 0] == 0.5  # both at their minimum: the mean
    assert weights[:, 0, 0, 1, 0].tolist() == [0.5, 0.5]


def test_both_at_minimum_is_the_mean_and_zero_on_paper() -> None:
    p = torch.tensor([[[[0.5, 1.0]]]])
    q = torch.tensor([[[[0.7, 1.0]]]])
    assert infuse([p, q], confidence="margin")[0, 0, 0, 0] == pytest.approx(0.6)
    assert infuse([p, q], confidence="margin", form="paper")[0, 0, 0, 0] == 0


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["entropy", "margin"])
def test_a_constant_map_counts_as_one(kind: Any, value: float) -> None:
    flat = torch.full((1, 1, 33, 35), value)
    assert torch.equal(normalised_confidence(flat, kind), torch.ones_like(flat))
    other = torch.rand(1, 1, 33, 35)
    c = normalised_confidence(other, kind)
    expected = (flat + other * c) / (1 + c + 1e-6)
    torch.testing.assert_close(infuse([flat, other], confidence=kind), expected)


def test_the_mean_and_one_member_and_equal_members() -> None:
    p, q, r = torch.rand(3, 2, 1, 8, 8)
    torch.testing.assert_close(infuse([p, q], confidence="mean"), (p + q) / 2)
    torch.testing.assert_close(infuse([p, q, r], confidence="mean"), (p + q + r) / 3)
    torch.testing.assert_close(infuse([p], confidence="mean"), p)
    torch.testing.assert_close(infuse([p, q]), infuse([q, p]))


@pytest.mark.parametrize(("kind", "on_paper"), [("entropy", 0.029), ("margin", 0.114)])
def test_of_random_pixels_half_pass_but_few_on_paper(kind: Any, on_paper: float) -> None:
    p, q = torch.rand(2, 1, 1, 400, 400, generator=torch.Generator().manual_seed(0))
    share = (infuse([p, q], confidence=kind) >= 0.5).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.005)
    share = (infuse([p, q], confidence=kind, form="paper") >= 0.5).float().mean().item()
    assert share == pytest.approx(on_paper, abs=0.005)


def test_an_image_does_not_depend_on_its_company_unless_asked() -> None:
    torch.manual_seed(0)
    p, q = torch.rand(2, 3, 1, 8, 8)
    p[1:] = 0.4 + 0.2 * p[1:]
    alone = infuse([p[1:2], q[1:2]])
    assert torch.equal(infuse([p, q])[1:2], alone)
    assert not torch.allclose(infuse([p, q], scope="batch")[1:2], alone)


def test_a_confidence_of_ones_own() -> None:
    p, q = torch.rand(2, 1, 1, 8, 8)
    torch.testing.assert_close(
        infuse([p, q], confidence=lambda x: (2 * x - 1).abs() * 7 + 3),
        infuse([p, q], confidence="margin"),
    )


def test_entropy_is_one_where_sure_and_zero_at_a_half() -> None:
    p = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    assert confidence_map(p, "entropy").flatten().tolist() == [1, 0, 1]
    assert confidence_map(p, "margin").flatten().tolist() == [1, 0, 1]


def test_unknown_words_are_refused() -> None:
    wrong: Any = "softmax"
    with pytest.raises(ValueError, match="softmax"):
        infuse([torch.rand(1, 1, 2, 2)], confidence=wrong)
    with pytest.raises(ValueError, match="softmax"):
        infuse([torch.rand(1, 1, 2, 2)], form=wrong)
