"""adapt: the fused ensemble teaches its own branches on the site's unlabelled images.

A mean teacher made of all members (an exponential moving average of each) sees the plain image;
its fused probability is the pseudo-mask, its confidence weighs each pixel; the students see the
image augmented. Source-free and label-free: beyond both papers (method.md, "Adaptation").
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.augment import segmentation_view
from clients.data.site import SiteData
from clients.infusion import fuse, pixel_weight
from clients.norm import keep_norm, last_norm, take_norm
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages.finetune import validation_metrics, with_masks
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
from common.config.stages import Adapt, Compute
from common.config.study import Study
from common.models.branches import fresh, load_shared, shared_state
from common.objectives.dice_bce import dice_bce


def run(request: Request) -> Result:
    """One round: AdaBN, then self-training; the teacher goes back.

    Returns:
        The members' moving averages side by side, the loss, and the teacher's mean confidence and
        foreground share, in which a drifting teacher shows.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Adapt)
    data = open_site(request.site, study)
    rows = training_rows(data, "adapt")
    students = _members(request)
    kept = take_norm(request, students)
    if settings.adabn or (study.federation.norm == "local" and not kept):
        for student in students:
            adapt_batch_norm(student, image_batches(data, rows, compute))
    teachers = copy.deepcopy(students).eval()
    for parameter in teachers.parameters():
        parameter.requires_grad_(False)
    generator = draws(request, "augmentation")
    seen: list[tuple[float, float]] = []

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        with torch.no_grad(), autocast(compute):
            taught = [teacher(images_B1HW).float().sigmoid() for teacher in teachers]
        if settings.teacher == "ensemble":
            taught = [fuse(taught, study.infusion)] * len(taught)
        total = images_B1HW.new_zeros(())
        for student, p_BCHW in zip(students, taught, strict=True):
            pseudo = (p_BCHW >= study.infusion.threshold).float()
            confidence = pixel_weight(p_BCHW, study.infusion)
            seen.append((float(confidence.mean()), float(pseudo.mean())))
            maps = torch.cat([pseudo, confidence], dim=1)
            strong_B1HW, moved = segmentation_view(images_B1HW, maps, generator)
            target, weight = moved.chunk(2, dim=1)
            with autocast(compute):
                logits = student(strong_B1HW)
            total = total + dice_bce(logits.float(), target, weights=weight)
        return total / len(taught)

    def follow() -> None:
        # The decay is full from the first step: a young average that follows closely drifts
        # with its students, into all foreground or none (docs/LOG.md).
        with torch.no_grad():
            average(teachers, students, settings.ema_decay)

    progress = run_epochs(
        request,
        data,
        students,
        rows,
        accumulated(loss, compute.micro_batch, students, proximal_of(request, students)),
        make_optimizer(students.parameters(), settings),
        after_step=follow,
    )
    teachers.cpu()
    keep_norm(request, teachers)
    confidences, foregrounds = zip(*seen, strict=True)
    metrics = {
        **progress.metrics(),
        "confidence": float(np.mean(confidences)),
        "foreground": float(np.mean(foregrounds)),
    }
    return Result(metrics, shared_state(teachers, study.federation.norm))


def check(request: Request) -> Result:
    """At a source: DiceBCE and Dice of the fused members on the validation images.

    With AdaBN the members carry a target's statistics, so the source takes its own first: what is
    asked is whether the weights still know the task, not whether two devices look alike.
    """
    study, settings = request.study, request.training.settings
    assert isinstance(settings, Adapt)
    data = open_site(request.site, study)
    members = _members(request)
    local = study.federation.norm == "local"
    for member, key in zip(members, request.training.start, strict=True):
        own = last_norm(request, key) if local else None
        if own is not None:
            member.load_state_dict({**member.state_dict(), **own})
        if settings.adabn or (local and own is None):
            adapt_batch_norm(member, image_batches(data, data.split.train, study.compute))
    sums = _fused_sums(members, data, study)
    return Result(validation_metrics(sums, data))


def average(teachers: nn.Module, students: nn.Module, decay: float) -> None:
    """Move every teacher tensor towards its student's: t <- decay t + (1 - decay) s."""
    for teacher, student in zip(
        teachers.state_dict().values(), students.state_dict().values(), strict=True
    ):
        if teacher.is_floating_point():
            teacher.lerp_(student, 1 - decay)
        else:
            teacher.copy_(student)


def image_batches(data: SiteData, rows: NDArray[np.int64], compute: Compute) -> Iterator[Tensor]:
    """All rows in order, in batches (B, 1, H, W) on the device."""
    for start in range(0, len(rows), compute.batch):
        yield to_unit(data.images(rows[start : start + compute.batch]), compute.device)


def _members(request: Request) -> nn.ModuleList:
    network = fresh(request.study, request.training)
    load_shared(network, request.weights)
    assert isinstance(network, nn.ModuleList)
    return network.to(request.study.compute.device)


def _fused_sums(members: nn.ModuleList, data: SiteData, study: Study) -> SegmentationSums:
    settings = study.finetune_mim
    sums = SegmentationSums(settings.epsilon, settings.pooled)
    rows = with_masks(data, data.split.val)
    members.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), study.compute.batch):
            part = rows[start : start + study.compute.batch]
            images_B1HW = to_unit(data.images(part), study.compute.device)
            probabilities = [member(images_B1HW).float().sigmoid() for member in members]
            masks_BCHW = torch.from_numpy(data.masks(part, stage="adapt")).to(images_B1HW)
            sums.add(fuse(probabilities, study.infusion), masks_BCHW)
    return sums
