"""Bench `contrastive`: many views in one loss, gradient caching against one graph.

The one graph encodes the same micro-batches in the same order, so that both draw the same dropout
and their gradients can be compared.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.models.branches import Contrasting
from common.models.transunet import PresetName, TransUNet, TransUNetConfig
from common.objectives.gradient_cache import cached_contrastive_step
from common.objectives.mt_nxent import mt_nxent
from scripts.bench.measure import Facts, Record, Stopwatch, Work, compare, record

PROJECTION = 128


def run(
    *,
    views: int = 1024,
    micro_batch: int = 64,
    frames: int = 32,
    preset: PresetName = "small",
    side: int = 64,
    repeats: int = 2,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record, with `max_gradient_difference`.

    That is the largest difference of an entry over the largest entry of its tensor's gradient,
    over all tensors whose gradient is not rounding alone.

    Args:
        views: Of both kinds together, even.
        micro_batch: Views of one forward.
        frames: Of a video, one after the other.
        preset: Size of the network.
        side: Pixels.
        repeats: Of each way.
        seed: Of weights, views and dropout.
        fresh: Each way in a process of its own.
    """
    ours, reference = compare(
        cached, one_graph, repeats=repeats, fresh=fresh,
        views=views, micro_batch=micro_batch, frames=frames, preset=preset, side=side, seed=seed,
    )  # fmt: skip
    yield record(
        f"contrastive {views} views", ours, reference,
        views=views, micro_batch=micro_batch, preset=preset, side=side, repeats=repeats, seed=seed,
        loss=ours.facts["loss"], reference_loss=reference.facts["loss"],
        max_gradient_difference=gradient_difference(
            ours.facts["gradients"], reference.facts["gradients"]
        ),
    )  # fmt: skip


def gradient_difference(ours: list[Any], reference: list[Any]) -> float:
    """Largest difference of an entry over the largest entry of its tensor.

    A tensor whose gradient vanishes by construction (a bias before a norm) holds rounding alone;
    its entries lie 1e-6 below the largest of all, and it is left out.
    """
    largest = max(float(np.abs(gradient).max()) for gradient in reference)
    return max(
        float(np.abs(mine - gradient).max() / np.abs(gradient).max())
        for mine, gradient in zip(ours, reference, strict=True)
        if np.abs(gradient).max() > 1e-6 * largest
    )


def cached(**sizes: Any) -> Work:
    """Ours."""
    return _work(_cached_step, **sizes)


def one_graph(**sizes: Any) -> Work:
    """The plain way: keep every activation until the loss goes back."""
    return _work(_one_graph_step, **sizes)


Step = Callable[[torch.nn.Module, Tensor, Callable[[Tensor], Tensor], int], Tensor]


def _work(
    step: Step,
    *,
    views: int,
    micro_batch: int,
    frames: int,
    preset: PresetName,
    side: int,
    seed: int,
) -> Work:
    torch.manual_seed(seed)
    network = TransUNet(TransUNetConfig.preset(preset, image_size=side))
    width = network.config.hidden
    del network.decoder, network.head
    encoder = Contrasting(network, width, PROJECTION).train()
    images_K1HW = torch.rand(views, 1, side, side)
    place_B = torch.arange(views // 2)
    video_B, frame_B = place_B // frames, place_B % frames

    def loss_of(z_KD: Tensor) -> Tensor:
        z_a, z_b = z_KD.chunk(2)
        return mt_nxent(z_a, z_b, video_B, frame_B, min_frame_gap=15, temperature=0.5)

    def work() -> tuple[float, Facts]:
        encoder.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        with Stopwatch() as watch:
            loss = step(encoder, images_K1HW, loss_of, micro_batch)
        gradients = [p.grad.numpy() for p in encoder.parameters() if p.grad is not None]
        return watch.seconds, {"loss": float(loss), "gradients": gradients}

    return work


def _cached_step(
    encoder: torch.nn.Module, views: Tensor, loss_of: Callable[[Tensor], Tensor], micro_batch: int
) -> Tensor:
    return cached_contrastive_step(encoder, views, loss_of, micro_batch=micro_batch)


def _one_graph_step(
    encoder: torch.nn.Module, views: Tensor, loss_of: Callable[[Tensor], Tensor], micro_batch: int
) -> Tensor:
    loss = loss_of(torch.cat([encoder(piece) for piece in torch.split(views, micro_batch)]))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
