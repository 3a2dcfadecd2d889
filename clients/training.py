"""The local loop: seeded batches, a fresh optimiser each round, a schedule over all rounds."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clients.data.site import SiteData
from clients.memory import keep_freed_memory
from clients.request import Request
from common.config.stages import Compute, Rounds
from common.lines import append_line
from common.seeds import generator_of, seed_of

Loss = Callable[[NDArray[np.int64]], Tensor]
"""Rows of one micro-batch to its mean loss, with a graph."""


@dataclass
class Progress:
    """One round's training at this site.

    Attributes:
        examples: Images that were trained on.
        patients: Of how many patients (else groups, else images) they are.
        epoch_losses: The mean loss of each epoch.
    """

    examples: int
    patients: int
    epoch_losses: list[float] = field(default_factory=list)

    def metrics(self, epoch: int = -1) -> dict[str, float | int]:
        """The scalars that every reply to a round has.

        Args:
            epoch: Index of the epoch whose weights go back.
        """
        return {
            "examples": self.examples,
            "patients": self.patients,
            "loss": self.epoch_losses[epoch],
            "loss_first": self.epoch_losses[0],
        }


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Rounds) -> torch.optim.Optimizer:
    """A fresh optimiser; `adam` couples its weight decay (P1 3.2.2), `adamw` does not."""
    rate, decay = settings.learning_rate, settings.weight_decay
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, weight_decay=decay, momentum=settings.momentum, fused=True
            )


def rate_factor(settings: Rounds, done: float) -> float:
    """Factor on the learning rate at a point of the whole run.

    Args:
        settings: The stage's table.
        done: Rounds done since the first began, with a fraction.
    """
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * done / settings.rounds))


def batches(
    rows: NDArray[np.int64], batch: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Shuffled full batches; the rest of an epoch is left for the next shuffle."""
    order = generator.permutation(rows)
    for start in range(0, len(order) - batch + 1, batch):
        yield order[start : start + batch]


def read_ahead(
    data: SiteData, drawn: Iterator[NDArray[np.int64]], workers: int
) -> Iterator[NDArray[np.int64]]:
    """The same batches; those that come next are read from the cache's file meanwhile.

    For a cache on a slow disk, larger than memory: what was read once lies in the system's memory
    when the step asks for it.

    Args:
        data: The site's.
        drawn: Batches of rows.
        workers: Threads, and batches ahead; 0: nothing is read ahead.
    """
    if workers == 0:
        yield from drawn
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[NDArray[np.int64], Future[NDArray[np.uint8]]]] = deque()
        for chosen in drawn:
            ahead.append((chosen, pool.submit(data.images, chosen)))
            if len(ahead) > workers:
                yield _read(*ahead.popleft())
        while ahead:
            yield _read(*ahead.popleft())


def _read(chosen: NDArray[np.int64], reading: Future[NDArray[np.uint8]]) -> NDArray[np.int64]:
    reading.result()
    return chosen


def autocast(compute: Compute) -> AbstractContextManager[object]:
    """The forward pass's precision."""
    if compute.precision == "float32":
        return nullcontext()
    kind = torch.device(compute.device).type
    return torch.autocast(kind, dtype=getattr(torch, compute.precision))


def run_epochs(
    request: Request,
    data: SiteData,
    network: nn.Module,
    rows: NDArray[np.int64],
    step: Callable[[NDArray[np.int64]], float],
    optimizer: torch.optim.Optimizer,
    *,
    after_epoch: Callable[[int, float], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> Progress:
    """Run one round's local epochs.

    Args:
        request: Says which round of which training this is.
        data: The site's.
        network: In training mode while steps run.
        rows: Rows to draw batches from.
        step: Computes gradients for one batch and returns its loss.
        optimizer: Stepped after each batch.
        after_epoch: Called with the epoch (from 0) and its mean loss.
        after_step: Called after each optimiser step.

    Returns:
        How many images of how many patients, and the epochs' losses.
    """
    keep_freed_memory()
    settings, study = request.training.settings, request.study
    # Selected images may be fewer than a batch; every other stage has been checked for one.
    batch = min(settings.batch or study.compute.batch, len(rows))
    per_epoch = len(rows) // batch
    steps = settings.steps or settings.epochs * per_epoch
    progress = Progress(len(rows), len(np.unique(data.clusters[rows])))
    epochs = math.ceil(steps / per_epoch)
    for epoch in range(epochs):
        network.train()
        began = time.monotonic()
        seed = seed_of(study.seed, request.target, request.site.name, request.round, epoch)
        losses = []
        drawn = batches(rows, batch, np.random.default_rng(seed))
        drawn = itertools.islice(drawn, steps - epoch * per_epoch)
        for index, chosen in enumerate(read_ahead(data, drawn, study.compute.workers)):
            done = request.round - 1 + (epoch * per_epoch + index) / steps
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate_factor(settings, done)
            optimizer.zero_grad(set_to_none=True)
            losses.append(step(chosen))
            optimizer.step()
            if after_step is not None:
                after_step()
        progress.epoch_losses.append(float(np.mean(losses)))
        write_epoch(request, epoch, epochs, progress.epoch_losses[-1], time.monotonic() - began)
        if after_epoch is not None:
            after_epoch(epoch, progress.epoch_losses[-1])
    return progress


def accumulated(
    loss: Loss, micro_batch: int | None, network: nn.Module, anchor: "Proximal | None" = None
) -> Callable[[NDArray[np.int64]], float]:
    """A step that walks a batch in micro-batches and adds their gradients up.

    Args:
        loss: Mean loss of a micro-batch.
        micro_batch: Images a forward pass; None: the whole batch.
        network: For the proximal term.
        anchor: fedprox's pull towards the round's incoming weights.
    """

    def step(chosen: NDArray[np.int64]) -> float:
        total = 0.0
        size = micro_batch or len(chosen)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            value = loss(part) * (len(part) / len(chosen))
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        if anchor is not None:
            anchor.add_gradient(network)
        return total

    return step


class Proximal:
    """FedProx: (mu / 2) |w - w_round|^2, as a gradient added after the loss's own."""

    def __init__(self, network: nn.Module, mu: float) -> None:
        self.mu = mu
        self.start = [parameter.detach().clone() for parameter in network.parameters()]

    def add_gradient(self, network: nn.Module) -> None:
        """Add mu (w - w_round) to every gradient."""
        for parameter, start in zip(network.parameters(), self.start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.mu)


def proximal_of(request: Request, network: nn.Module) -> Proximal | None:
    """The study's proximal term, if it asks for one."""
    federation = request.study.federation
    if federation.aggregation != "fedprox":
        return None
    return Proximal(network, federation.proximal)


def to_unit(images_NHW: NDArray[np.uint8], device: str) -> Tensor:
    """(N, H, W) bytes to (N, 1, H, W) float32 in [0, 1]."""
    own = np.require(images_NHW, requirements=("C", "W"))  # torch wants memory it could write to
    return torch.from_numpy(own).to(device).unsqueeze(1).float() / 255


def draws(request: Request, purpose: str) -> torch.Generator:
    """The round's own CPU generator for one purpose."""
    return generator_of(
        request.study.seed, request.target, request.site.name, request.round, purpose
    )


def write_epoch(request: Request, epoch: int, epochs: int, loss: float, seconds: float) -> None:
    """Append one line to the site's own `epochs.jsonl` (it stays at the site)."""
    line = {
        "training": request.target,
        "stage": request.stage,
        "round": request.round,
        "epoch": epoch + 1,
        "epochs": epochs,
        "loss": loss,
        "seconds": round(seconds, 3),
    }
    append_line(request.site.folder / "epochs.jsonl", line)


def adapt_batch_norm(network: nn.Module, images: Iterable[Tensor]) -> None:
    """AdaBN: recompute every BatchNorm's running statistics as the mean over batches.

    Args:
        network: Its BatchNorm statistics are replaced; nothing else changes.
        images: Batches (B, 1, H, W).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    with torch.no_grad():
        for batch in images:
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)


class SegmentationSums:
    """Dice + BCE over a whole set, exact whatever the batches (P1 3.2.1).

    BCE is the mean over all pixels; Dice is taken per class, pooled over the set (or the mean over
    images), and averaged over the classes, as the loss of training does.
    """

    def __init__(self, epsilon: float, pooled: bool) -> None:
        self.epsilon, self.pooled = epsilon, pooled
        self.bce = self.pixels = 0.0
        none_yet = torch.zeros((), dtype=torch.float64)
        self.overlap_C = self.predicted_C = self.reference_C = none_yet
        self.dice_sum = 0.0
        self.hard_sum = 0.0
        self.images = 0

    def add(self, probabilities_BCHW: Tensor, masks_BCHW: Tensor) -> None:
        """Add a batch of probabilities in [0, 1] and masks in {0, 1}."""
        p, y = probabilities_BCHW.double(), masks_BCHW.double()
        self.bce += float(F.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), y, reduction="sum"))
        self.pixels += p.numel()
        axes = (2, 3)
        overlap_BC, predicted_BC, reference_BC = (p * y).sum(axes), p.sum(axes), y.sum(axes)
        self.overlap_C = self.overlap_C + overlap_BC.sum(0).cpu()
        self.predicted_C = self.predicted_C + predicted_BC.sum(0).cpu()
        self.reference_C = self.reference_C + reference_BC.sum(0).cpu()
        dice_BC = (2 * overlap_BC + self.epsilon) / (predicted_BC + reference_BC + self.epsilon)
        self.dice_sum += float(dice_BC.mean(1).sum())
        hard = (p >= 0.5).double()
        hard_BC = (2 * (hard * y).sum(axes) + 1) / (hard.sum(axes) + reference_BC + 1)
        self.hard_sum += float(hard_BC.mean(1).sum())
        self.images += len(p)

    @property
    def loss(self) -> float:
        """DiceBCE of the set."""
        if self.pooled:
            total_C = self.predicted_C + self.reference_C + self.epsilon
            dice = float(((2 * self.overlap_C + self.epsilon) / total_C).mean())
        else:
            dice = self.dice_sum / self.images
        return 1 - dice + self.bce / self.pixels

    @property
    def dice(self) -> float:
        """Mean Dice of the thresholded images and classes."""
        return self.hard_sum / self.images
