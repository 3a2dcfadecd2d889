import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.objectives.mt_nxent import (
    Positives,
    anchors_without_negatives,
    content_similarity,
    mt_nxent,
    pairs_masked,
)


def by_loops(
    z_a: Tensor,
    z_b: Tensor,
    video: list[int],
    frame: list[int],
    *,
    min_frame_gap: int,
    temperature: float,
    positives: Positives = "views",
    near_frames: int = 5,
    similar: Tensor | None = None,
) -> tuple[float, int]:
    """P1 3.2.2 pair by pair; the loss and how many anchors had no negative."""
    B = len(video)
    views = [[float(v) for v in row] for row in torch.cat((z_a, z_b)).double()]
    for row in views:
        length = math.sqrt(sum(v * v for v in row))
        row[:] = [v / length for v in row]
    losses, alone = [], 0
    for k in range(2 * B):
        good, bad = [], []
        for other in range(2 * B):
            i, j = k % B, other % B
            if k == other:
                continue
            s = sum(a * b for a, b in zip(views[k], views[other], strict=True)) / temperature
            together = video[i] == video[j] and video[i] != -1
            apart = abs(frame[i] - frame[j])
            if i == j or (positives == "near_frames" and together and apart <= near_frames):
                good.append(s)
            elif similar is not None:
                if not similar[i, j]:
                    bad.append(s)
            elif not (together and apart < min_frame_gap):
                bad.append(s)
        if not bad:
            alone += 1
            losses.append(0.0)
            continue
        top = max(good + bad)
        denominator = top + math.log(sum(math.exp(s - top) for s in good + bad))
        losses.append(sum(denominator - s for s in good) / len(good))
    return sum(losses) / len(losses), alone


batches = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-1, 2), min_size=n, max_size=n),
        st.lists(st.integers(0, 40), min_size=n, max_size=n),
    )
)


def projections(n: int, seed: int, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, n, width, generator=generator)
    return z[0].requires_grad_(), z[1].requires_grad_()


@settings(max_examples=80, deadline=None)
@given(
    batch=batches,
    gap=st.sampled_from([0, 1, 10, 15, 30]),
    tau=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    positives=st.sampled_from(["views", "near_frames"]),
    seed=st.integers(0, 1000),
)
def test_equals_the_loops(
    batch: tuple[list[int], list[int]], gap: int, tau: float, positives: Positives, seed: int
) -> None:
    video, frame = batch
    z_a, z_b = projections(len(video), seed)
    options: Any = {"min_frame_gap": gap, "positives": positives}
    expected, alone = by_loops(z_a, z_b, video, frame, temperature=tau, **options)
    v, f = torch.tensor(video), torch.tensor(frame)
    loss = mt_nxent(z_a, z_b, v, f, temperature=tau, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert anchors_without_negatives(v, f, **options) == alone
    loss.backward()  # type: ignore[no-untyped-call]
    for z in (z_a, z_b):
        assert z.grad is not None
        assert z.grad.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 6), seed=st.integers(0, 1000))
def test_content_masks_what_looks_alike(n: int, seed: int) -> None:
    z_a, z_b = projections(n, seed)
    similar = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) > 0.6
    similar = similar | similar.T
    nowhere = torch.full((n,), -1)
    expected, alone = by_loops(
        z_a, z_b, nowhere.tolist(), [0] * n, min_frame_gap=0, temperature=0.5, similar=similar
    )
    options: Any = {"min_frame_gap": 15, "gap": "content", "similar": similar}
    loss = mt_nxent(z_a, z_b, nowhere, nowhere, temperature=0.5, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert anchors_without_negatives(nowhere, nowhere, **options) == alone


def test_content_needs_its_matrix() -> None:
    z_a, z_b = projections(2, 0)
    v = torch.zeros(2)
    with pytest.raises(ValueError, match="similar"):
        mt_nxent(z_a, z_b, v, v, min_frame_gap=0, temperature=1.0, gap="content")


def nt_xent(z_a: Tensor, z_b: Tensor, tau: float) -> Tensor:
    """SimCLR's loss as cross-entropy over the other 2B - 1 views."""
    z = torch.nn.functional.normalize(torch.cat((z_a, z_b)), dim=1)
    s = z @ z.T / tau
    s = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf)
    B = len(z_a)
    partner = torch.cat((torch.arange(B, 2 * B), torch.arange(B)))
    return torch.nn.functional.cross_entropy(s, partner)


def test_gap_zero_is_simclr_and_so_is_data_without_videos() -> None:
    z_a, z_b = projections(8, 3)
    one_video, frames, none = torch.zeros(8).long(), torch.arange(8), torch.full((8,), -1)
    expected = nt_xent(z_a, z_b, 0.5)
    for video, gap in ((one_video, 0), (none, 15)):
        loss = mt_nxent(z_a, z_b, video, frames, min_frame_gap=gap, temperature=0.5)
        torch.testing.assert_close(loss, expected)
        assert pairs_masked(video, frames, min_frame_gap=gap) == (0, 28)


def test_the_gap_is_strict() -> None:
    video, frame = torch.zeros(2).long(), torch.tensor([0, 15])
    assert pairs_masked(video, frame, min_frame_gap=15) == (0, 1)
    assert pairs_masked(video, frame, min_frame_gap=16) == (1, 1)


def test_pairs_are_counted() -> None:
    video, frame = torch.tensor([4, 4, 4, 7, -1, -1]), torch.tensor([0, 3, 40, 3, 0, 0])
    assert pairs_masked(video, frame, min_frame_gap=15) == (1, 15)
    similar = torch.zeros(6, 6, dtype=torch.bool)
    similar[0, 5] = similar[2, 1] = True
    assert pairs_masked(video, frame, min_frame_gap=15, gap="content", similar=similar) == (2, 15)


@pytest.mark.parametrize("positives", ["views", "near_frames"])
def test_all_negatives_masked_is_zero_without_gradient(positives: Positives) -> None:
    z_a, z_b = projections(4, 0)
    video, frame = torch.zeros(4).long(), torch.arange(4)
    options: Any = {"min_frame_gap": 15, "positives": positives}
    loss = mt_nxent(z_a, z_b, video, frame, temperature=0.1, **options)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert z_a.grad is not None
    assert not z_a.grad.any()
    assert anchors_without_negatives(video, frame, **options) == 8


def test_masked_neighbours_do_not_push() -> None:
    z_a, z_b = projections(3, 1)
    video, frame = torch.tensor([0, 0, 1]), torch.tensor([0, 5, 0])
    loss_K = mt_nxent(z_a, z_b, video, frame, min_frame_gap=15, temperature=0.5)
    moved = z_a.detach().clone()
    moved[2] = torch.randn(5)
    assert loss_K != mt_nxent(moved, z_b, video, frame, min_frame_gap=15, temperature=0.5)
    alone = torch.tensor([0, 0]), torch.tensor([0, 5])
    assert mt_nxent(z_a[:2], z_b[:2], *alone, min_frame_gap=15, temperature=0.5) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_order_views_and_length_do_not_matter(seed: int, scale: float) -> None:
    z_a, z_b = projections(6, seed)
    video, frame = torch.tensor([0, 0, 1, 1, -1, -1]), torch.tensor([0, 4, 9, 40, 0, 1])
    options: Any = {"min_frame_gap": 15, "temperature": 0.5}
    loss = mt_nxent(z_a, z_b, video, frame, **options)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = mt_nxent(z_a[order], z_b[order], video[order], frame[order], **options)
    torch.testing.assert_close(shuffled, loss)
    torch.testing.assert_close(mt_nxent(z_b, z_a, video, frame, **options), loss)
    torch.testing.assert_close(mt_nxent(scale * z_a, z_b, video, frame, **options), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-4, 1.0, 200.0])
def test_every_dtype_is_free_of_nan(dtype: torch.dtype, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = (size * torch.randn(2, 16, 128, generator=generator)).to(dtype).requires_grad_()
    video, frame = torch.arange(16) // 4, torch.arange(16)
    options: Any = {"min_frame_gap": 15, "temperature": 0.01}
    loss = mt_nxent(z[0], z[1], video, frame, **options)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = mt_nxent(z[0].double(), z[1].double(), video, frame, **options)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_autocast_does_not_coarsen_it_and_zero_vectors_are_finite() -> None:
    z_a, z_b = projections(8, 2)
    nowhere = torch.full((8,), -1)
    options: Any = {"min_frame_gap": 15, "temperature": 0.1}
    plain = mt_nxent(z_a, z_b, nowhere, nowhere, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mt_nxent(z_a, z_b, nowhere, nowhere, **options), plain)
    zero = torch.zeros(8, 5, requires_grad=True)
    loss = mt_nxent(zero, z_b, nowhere, nowhere, **options)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_content_similarity_sees_contrast_not_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 64, 64, generator=generator)
    images[1] = images[0] * 0.5 + 0.2
    images[2] = 1 - images[0]
    images[3] = 0.4
    similar = content_similarity(images)
    assert torch.equal(similar, similar.T)
    assert similar.nonzero().tolist() == [[0, 1], [1, 0]]
    small = torch.nn.functional.avg_pool2d(images, 2)
    assert torch.equal(content_similarity(small), similar)
