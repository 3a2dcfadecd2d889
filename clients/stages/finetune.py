"""finetune_mim, finetune_contrastive, lower, upper, finetune_selected: supervised (P1 3.2.1).

The first three run at the sources; `upper` at the targets, with their masks, to show what labels
would have given; `finetune_selected` at the targets, on the masks of what experts were asked to
annotate. They differ in what they start from, which the server decides.
"""

import copy
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.augment import segmentation_view
from clients.data.site import SiteData
from clients.norm import keep_norm, take_norm
from clients.request import Request, Result
from clients.selected import outlined_images
from clients.site import open_site, training_rows
from clients.training import (
    SegmentationSums,
    accumulated,
    adapt_batch_norm,
    autocast,
    draws,
    make_optimizer,
    proximal_of,
    run_epochs,
    to_unit,
)
from common.config.selection import FinetuneSelected
from common.config.stages import Finetune
from common.config.study import Study
from common.models.branches import fresh, load_shared, shared_state
from common.objectives.dice_bce import dice_bce
from common.plugins import load_plugin

SegmentationLoss = Callable[[Tensor, Tensor], Tensor]


def run(request: Request) -> Result:
    """One round: train, and hand back the epoch with the lowest validation DiceBCE.

    Returns:
        The network of the best epoch, losses, and its validation loss and Dice.
    """
    if request.stage == "finetune_selected":
        return run_selected(request)
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Finetune)
    data = open_site(request.site, study)
    rows = with_masks(data, data.split.train)
    network = fresh(study, training)
    load_shared(network, request.weights)
    take_norm(request, network)
    network.to(compute.device)
    best: dict[str, Tensor] = {}
    best_sums, best_epoch = None, 0

    def keep_best(epoch: int, _: float) -> None:
        nonlocal best, best_sums, best_epoch
        sums = validate(network, data, request.stage, study, settings)
        if best_sums is None or sums.loss < best_sums.loss:
            best = copy.deepcopy(network.state_dict())
            best_sums, best_epoch = sums, epoch + 1

    progress = run_epochs(
        request,
        data,
        network,
        rows,
        step_of(
            request,
            network,
            data,
            settings,
            lambda chosen: data.masks(chosen, stage=request.stage),
        ),
        make_optimizer(network.parameters(), settings),
        after_epoch=keep_best,
    )
    assert best_sums is not None
    network.load_state_dict(best)
    network.cpu()
    keep_norm(request, network)
    metrics = {
        **progress.metrics(best_epoch - 1),
        **validation_metrics(best_sums, data),
        "best_epoch": best_epoch,
    }
    return Result(metrics, shared_state(network, study.federation.norm))


def run_selected(request: Request) -> Result:
    """One round on the selected images' masks; the last epoch goes back.

    A target has no mask beyond its budget to choose an epoch by.

    Returns:
        The network and the losses.

    Raises:
        InputError: If none of the annotated images has a mask.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, FinetuneSelected)
    data = open_site(request.site, study)
    outlined = outlined_images(request, data)
    network = fresh(study, training)
    load_shared(network, request.weights)
    kept = take_norm(request, network)
    network.to(compute.device)
    if study.federation.norm == "local" and not kept:
        # The source's BatchNorms have stayed there: the first round begins with the site's own.
        pool = training_rows(data, "adapt")
        starts = range(0, len(pool), compute.batch)
        adapt_batch_norm(
            network,
            (to_unit(data.images(pool[s : s + compute.batch]), compute.device) for s in starts),
        )
    progress = run_epochs(
        request,
        data,
        network,
        outlined.rows,
        # Experts outline what they annotate, and only that is read.
        step_of(request, network, data, settings, outlined.masks),
        make_optimizer(network.parameters(), settings),
    )
    network.cpu()
    keep_norm(request, network)
    return Result(progress.metrics(), shared_state(network, study.federation.norm))


def step_of(
    request: Request,
    network: nn.Module,
    data: SiteData,
    settings: Finetune,
    masks_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
) -> Callable[[NDArray[np.int64]], float]:
    """A step of supervised segmentation.

    Args:
        request: Its seed drives the augmentation.
        network: It segments.
        data: The site's.
        settings: Augmentation and loss.
        masks_of: Gives the rows' masks, (n, C, S, S) in {0, 1}.
    """
    compute = request.study.compute
    generator = draws(request, "augmentation")
    objective = loss_function(settings)

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        masks_BCHW = torch.from_numpy(masks_of(chosen)).to(images_B1HW)
        if settings.augmentation:
            images_B1HW, masks_BCHW = segmentation_view(images_B1HW, masks_BCHW, generator)
        with autocast(compute):
            logits_BCHW = network(images_B1HW)
        return objective(logits_BCHW.float(), masks_BCHW)

    return accumulated(loss, compute.micro_batch, network, proximal_of(request, network))


def check(request: Request) -> Result:
    """Validate the incoming weights on the site's validation images: DiceBCE and Dice."""
    settings = request.training.settings
    assert isinstance(settings, Finetune)
    data = open_site(request.site, request.study)
    network = fresh(request.study, request.training)
    load_shared(network, request.weights)
    take_norm(request, network, after=True)
    network.to(request.study.compute.device)
    sums = validate(network, data, request.training.stage, request.study, settings)
    return Result(validation_metrics(sums, data))


def loss_function(settings: Finetune) -> SegmentationLoss:
    """Dice + BCE, or somebody's own `(logits, targets) -> scalar`."""
    if settings.loss != "dice_bce":
        return cast(SegmentationLoss, load_plugin(settings.loss, "finetune.loss"))
    return lambda logits, targets: dice_bce(
        logits, targets, epsilon=settings.epsilon, pooled=settings.pooled
    )


def with_masks(data: SiteData, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows that have a mask."""
    masked: NDArray[np.int64] = rows[data.has_mask[rows]]
    return masked


def validation_metrics(sums: SegmentationSums, data: SiteData) -> dict[str, float | int]:
    """What a site says of its validation images, and of how many patients they are."""
    rows = with_masks(data, data.split.val)
    return {
        "val_loss": sums.loss,
        "val_dice": sums.dice,
        "val_images": sums.images,
        "val_patients": len(np.unique(data.clusters[rows])),
    }


def validate(
    network: nn.Module, data: SiteData, stage: str, study: Study, settings: Finetune
) -> SegmentationSums:
    """DiceBCE over the whole validation set, each image once."""
    sums = SegmentationSums(settings.epsilon, settings.pooled)
    rows = with_masks(data, data.split.val)
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), study.compute.batch):
            part = rows[start : start + study.compute.batch]
            images_B1HW = to_unit(data.images(part), study.compute.device)
            with autocast(study.compute):
                logits_BCHW = network(images_B1HW)
            masks_BCHW = torch.from_numpy(data.masks(part, stage=stage)).to(images_B1HW)
            sums.add(logits_BCHW.float().sigmoid(), masks_BCHW)
    return sums
