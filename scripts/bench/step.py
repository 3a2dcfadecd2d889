"""Bench `step`: one training step of a segmentation, ours against an eager float32 AdamW loop.

Both start from bytes as the cache holds them. Ours is what a site runs: deterministic kernels, the
fused optimiser, freed memory kept between steps. `bfloat16` is `[compute] precision`, an option.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clients.memory import keep_freed_memory
from clients.training import accumulated, autocast, make_optimizer, to_unit
from common.config.stages import Compute, Finetune
from common.models.transunet import PresetName, TransUNet, TransUNetConfig
from common.objectives.dice_bce import dice_bce
from common.seeds import deterministic
from scripts.bench.measure import THREADS, Facts, Record, Stopwatch, Work, compare, record

Precision = Literal["float32", "bfloat16"]
WARM_UP = 2
Bytes = NDArray[np.uint8]


def run(
    *,
    precisions: Sequence[Precision] = ("float32", "bfloat16"),
    preset: PresetName = "small",
    side: int = 64,
    batch: int = 16,
    steps: int = 5,
    repeats: int = 7,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record for each precision of ours; the reference is float32.

    Args:
        precisions: Of ours.
        preset: Size of the network.
        side: Pixels.
        batch: Images a step.
        steps: Behind the time of one repeat.
        repeats: Of each way.
        seed: Of weights and images.
        fresh: Each way in a process of its own.
    """
    for precision in precisions:
        ours, reference = compare(
            as_a_site, plain, repeats=repeats, fresh=fresh, ours_only={"precision": precision},
            preset=preset, side=side, batch=batch, steps=steps, seed=seed,
        )  # fmt: skip
        yield record(
            f"step {precision}", ours, reference,
            preset=preset, side=side, batch=batch, steps=steps, repeats=repeats, seed=seed,
            loss=ours.facts["loss"], reference_loss=reference.facts["loss"],
        )  # fmt: skip


def _input(preset: PresetName, side: int, batch: int, seed: int) -> tuple[TransUNet, Bytes, Bytes]:
    torch.manual_seed(seed)
    network = TransUNet(TransUNetConfig.preset(preset, image_size=side)).train()
    rng = np.random.default_rng(seed)
    images_BHW = rng.integers(0, 256, (batch, side, side), dtype=np.uint8)
    masks_B1HW = (rng.random((batch, 1, side, side)) < 0.3).astype(np.uint8)
    return network, images_BHW, masks_B1HW


def as_a_site(
    *, preset: PresetName, side: int, batch: int, steps: int, seed: int, precision: Precision
) -> Work:
    """Ours, out of the parts that the stages use."""
    network, images_BHW, masks_B1HW = _input(preset, side, batch, seed)
    settings = Finetune(optimizer="adamw", learning_rate=1e-3, weight_decay=0.05)
    compute = Compute(precision=precision)
    optimizer = make_optimizer(network.parameters(), settings)
    keep_freed_memory()

    def loss(rows: NDArray[np.int64]) -> Tensor:
        images = to_unit(images_BHW[rows], compute.device)
        masks = torch.from_numpy(masks_B1HW[rows]).to(images)
        with autocast(compute):
            logits = network(images)
        return dice_bce(logits.float(), masks)

    step = accumulated(loss, compute.micro_batch, network)
    rows = np.arange(batch)

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = step(rows)
        optimizer.step()
        return value

    with deterministic(seed, THREADS):
        for _ in range(WARM_UP):
            once()

    def work() -> tuple[float, Facts]:
        with deterministic(seed, THREADS), Stopwatch() as watch:
            for _ in range(steps):
                value = once()
        return watch.seconds / steps, {"loss": value}

    return work


def plain(*, preset: PresetName, side: int, batch: int, steps: int, seed: int) -> Work:
    """The loop of a tutorial: eager float32, `torch.optim.AdamW` as it comes."""
    network, images_BHW, masks_B1HW = _input(preset, side, batch, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)

    def once() -> float:
        images = torch.from_numpy(images_BHW).unsqueeze(1).float() / 255
        masks = torch.from_numpy(masks_B1HW).float()
        optimizer.zero_grad()
        logits = network(images)
        p = logits.sigmoid()
        overlap, total = (p * masks).sum(), p.sum() + masks.sum()
        dice = 1 - (2 * overlap + 1) / (total + 1)
        value: Tensor = dice + F.binary_cross_entropy_with_logits(logits, masks)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(value.detach())

    torch.manual_seed(seed)
    for _ in range(WARM_UP):
        once()

    def work() -> tuple[float, Facts]:
        torch.manual_seed(seed)
        with Stopwatch() as watch:
            for _ in range(steps):
                value = once()
        return watch.seconds / steps, {"loss": value}

    return work
