"""What a study will take, told before it runs: parameters, memory, steps, bytes to move.

Every network is built on PyTorch's meta device, where tensors have shapes and no memory; so the
full-size model is described in seconds on any machine.

How the memory of one training at one site is estimated (bytes, float32):

- weights, gradients, optimiser: 4 a parameter each; Adam and AdamW keep two numbers a parameter,
  SGD with momentum one, plain SGD none;
- activations: what autograd keeps of one micro-batch's forward pass, measured on the meta device,
  times `WORKSPACE` for the backward pass's own scratch (measured: 1.0 to 1.5);
- copies: what the stage keeps beside the network (the best epoch of a fine-tuning, the teachers of
  an adaptation, FedProx's anchor) and three times the payload for the messages;
- `BASE_BYTES` for Python and its libraries, once a process.

Under autocast the activations are smaller than this; the estimate stays an upper one.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from common.config.stages import Finetune
from common.config.study import Study
from common.models.branches import SELECTION_STAGES, network_of
from common.plan import Plan, Training
from common.wire.crossing import crossing
from common.wire.payload import payload_bytes
from common.wire.vocabulary import member_tensors, returned_tensors, training_tensors

BASE_BYTES = 750_000_000
"""Python, torch, timm and Flower, resident, before any weight (measured)."""

WORKSPACE = 1.5
"""Factor on the saved activations."""

STATES = {"adamw": 2, "adam": 2, "sgd": 1}
"""Numbers that an optimiser keeps for each parameter."""

KEEPING = ("adapt", "source_classifier", "diffusion")
"""Stages beside the fine-tunings that hold a second copy: a teacher, the best epoch, an average."""

MESSAGE_COPIES = 3
"""Of the payload: as it came, as tensors, as it goes back."""


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one training at one site.

    Attributes:
        parameters: Numbers that are trained.
        weights: Bytes of the network, buffers included.
        gradients: Bytes.
        optimizer: Bytes.
        activations: Bytes of one micro-batch; None where somebody's own model cannot be run on
            the meta device.
        copies: Bytes that the stage and the messages hold beside.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    copies: int

    @property
    def total(self) -> int:
        """Bytes of a process that does this training."""
        known = self.weights + self.gradients + self.optimizer + self.copies
        return BASE_BYTES + known + (self.activations or 0)


def training_memory(study: Study, training: Training) -> Memory:
    """The memory of one training at one site; see the head of this file."""
    shape = _shape(study.canonical(), _alike(study, training), micro_batch(study, training))
    settings = training.settings
    states = STATES[settings.optimizer]
    if settings.optimizer == "sgd" and settings.momentum == 0:
        states = 0
    keeps = isinstance(settings, Finetune) or training.stage in KEEPING
    kept = shape.weights if keeps else 0
    anchor = shape.gradients if study.federation.aggregation == "fedprox" else 0
    return Memory(
        shape.parameters,
        shape.weights,
        shape.gradients,
        states * shape.gradients,
        shape.activations,
        kept + anchor + MESSAGE_COPIES * payload(study, training, "float32"),
    )


def payload(study: Study, training: Training, wire_dtype: str) -> int:
    """Serialised tensor bytes of one message of a training to a site."""
    return payload_bytes(training_tensors(study, _alike(study, training)), wire_dtype)


def server_memory(study: Study, plan: Plan) -> int:
    """Bytes of the server's process: libraries, weights, running mean, messages."""
    sizes = [payload(study, training, "float32") for training in plan.trainings.values()]
    largest = max(sizes, default=0)
    return BASE_BYTES + (1 + MESSAGE_COPIES) * largest


def fitting_jobs(study: Study, plan: Plan, available: int, wanted: int) -> int:
    """How many sites may work at the same time: as wanted, or fewer if memory ends first.

    Args:
        study: The study.
        plan: Its largest training counts.
        available: Bytes to spend.
        wanted: The most.
    """
    largest = max((training_memory(study, t).total for t in plan.trainings.values()), default=1)
    room = available - server_memory(study, plan)
    return max(1, min(wanted, room // largest))


def micro_batch(study: Study, training: Training) -> int:
    """Images in one forward pass; the contrastive stage sees two views of each."""
    batch = training.settings.batch or study.compute.batch
    if training.stage == "contrastive":
        return min(study.compute.micro_batch or 2 * batch, 2 * batch)
    micro = study.compute.micro_batch
    if training.stage == "diffusion":
        micro = study.diffusion.micro_batch or micro
    return min(micro or batch, batch)


Bytes = dict[str, dict[str, int]]
"""By site: {"down": ..., "up": ...}."""


def training_traffic(study: Study, training: Training) -> Bytes:
    """Serialised tensor bytes of a training that runs all its rounds, by site.

    Beside the rounds' own messages, weights go down to whoever judges them on validation images:
    the sources before and after each round of `adapt`; after each round of a fine-tuning its own
    sites, unless the aggregate is one site's reply, whose validation holds already.
    """
    size, rounds = payload(study, training, study.wire.dtype), training.settings.rounds
    back = payload_bytes(returned_tensors(study, _alike(study, training)), study.wire.dtype)
    moved: Bytes = {
        site: {"down": size * rounds, "up": back * rounds} for site in training.participants
    }
    if training.stage == "adapt":
        for site in study.sources:
            moved.setdefault(site, {"down": 0, "up": 0})["down"] += size * (rounds + 1)
    elif isinstance(training.settings, Finetune):
        passes_through = study.federation.aggregation in ("mean", "fedprox")
        if len(training.participants) > 1 or not passes_through:
            for site in training.participants:
                moved[site]["down"] += size * rounds
    return moved


def evaluation_traffic(study: Study, plan: Plan) -> Bytes:
    """Serialised tensor bytes of the evaluation: each member goes to the sites that fuse it."""
    moved: Bytes = {}
    for member, sites in plan.predictors.items():
        size = payload_bytes(member_tensors(study, plan, member), study.wire.dtype)
        for site in sites:
            moved.setdefault(site, {"down": 0, "up": 0})["down"] += size
    return moved


CUTS = 6
"""Rounds of counts that a cut through the scores takes at most, about."""


def selection_traffic(study: Study, plan: Plan) -> Bytes:
    """Serialised tensor bytes of the stages that choose images and judge the classifiers, by site.

    An upper bound: k-means runs all its iterations here.
    """
    moved: Bytes = {site: {"down": 0, "up": 0} for site in study.sites}

    def add(sites: Iterable[str], times: int, *what: str) -> None:
        category, stage, key, step = (*what, "", "")[:4]
        found = crossing(study, plan, category, stage, key, step)
        for site in sites:
            moved[site]["down"] += times * payload_bytes(found.down, study.wire.dtype)
            moved[site]["up"] += times * payload_bytes(found.up, study.wire.dtype)

    if plan.reconstructing:
        add(study.sources, 1, "query", "reconstruct", "", "style")
        for step in ("redraw", "compare"):
            add(study.sites, 1, "query", "reconstruct", "", step)
    for arm, selection in plan.selections.items():
        if selection.strategy == "dual":
            add(study.targets, 1, "query", "score", arm, "embed")
            add(study.targets, 1, "query", "score", arm, "moments")
            add(study.targets, selection.settings.iterations, "query", "score", arm, "cluster")
            add(study.targets, 1, "query", "score", arm, "cells")
        for step, times in (("rank", 1), ("cut", CUTS), ("choose", 1)):
            add(study.targets, times, "query", "select", arm, step)
    for cell in plan.cells:
        add(study.targets, 1, "evaluate", "classify", cell)
    if plan.cells:
        add(study.targets, 1, "evaluate", "classify")
    return moved


def steps(study: Study, training: Training, rows: Mapping[str, int]) -> dict[str, int]:
    """Optimiser steps of a whole training, by site.

    Args:
        study: For the batch where the stage names none.
        training: The training.
        rows: Training images of each site whose data are known.
    """
    settings = training.settings
    batch = settings.batch or study.compute.batch
    return {
        site: (settings.steps or rows[site] // batch * settings.epochs) * settings.rounds
        for site in training.participants
        if site in rows
    }


@dataclass(frozen=True)
class _Shape:
    """A network on the meta device: numbers of parameters, bytes of the rest."""

    parameters: int
    weights: int
    gradients: int
    activations: int | None


def _alike(study: Study, training: Training) -> Training:
    """One training for all whose network has the same shape, so that each shape is built once."""
    if training.stage in SELECTION_STAGES:
        return Training("", training.stage, training.settings, (), (), 0, training.architecture)
    stage = training.stage if training.stage in ("mim", "contrastive", "adapt") else "lower"
    members = ("",) * len(training.start) if stage == "adapt" else ()
    return Training("", stage, study.lower, (), members)


@lru_cache(maxsize=64)
def _shape(canonical: str, training: Training, images: int) -> _Shape:
    study = Study.model_validate_json(canonical)
    with torch.device("meta"):
        network = network_of(study, training)
    return _Shape(
        sum(p.numel() for p in network.parameters()),
        sum(_bytes(t) for t in network.state_dict().values()),
        sum(_bytes(p) for p in network.parameters()),
        _activations(study, images, network),
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _activations(study: Study, images: int, network: nn.Module) -> int | None:
    """Bytes that one micro-batch's graph keeps, times `WORKSPACE`."""
    side = study.model.image_size
    with torch.device("meta"):
        images_BCHW = torch.empty(images, 1, side, side)
    weights = {t.untyped_storage()._cdata for t in network.state_dict().values()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    network.train()
    # An adaptation's members share one graph. A network whose step is more than its forward pass
    # offers `rehearse`.
    members = network if isinstance(network, nn.ModuleList) else [network]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            graphs = [getattr(member, "rehearse", member)(images_BCHW) for member in members]
    except (NotImplementedError, RuntimeError):  # somebody's own model
        if study.model.name is None:
            raise
        return None
    saved = sum(storage.nbytes() for storage in storages.values())
    del graphs
    return math.ceil(saved * WORKSPACE)
