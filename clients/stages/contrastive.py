"""contrastive: MT-NXent between two views of the site's own images, no labels (P1 3.2.2)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.augment import contrastive_view
from clients.norm import keep_norm, take_norm
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.training import draws, make_optimizer, proximal_of, run_epochs, to_unit
from common.config.stages import Contrastive
from common.models.branches import fresh, load_shared, shared_state
from common.objectives.gradient_cache import cached_contrastive_step
from common.objectives.mt_nxent import (
    anchors_without_negatives,
    content_similarity,
    mt_nxent,
    pairs_masked,
)


def run(request: Request) -> Result:
    """One round. The batch is the batch: micro-batches go through gradient caching.

    Returns:
        Encoder and projection head (the next round needs it too), losses, and how many pairs the
        frame gap masked: 0 of them means that MT-NXent is SimCLR here.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Contrastive)
    data = open_site(request.site, study)
    rows = training_rows(data, "contrastive")
    network = fresh(study, training)
    load_shared(network, request.weights)
    take_norm(request, network)
    network.to(compute.device)
    anchor = proximal_of(request, network)
    generator = draws(request, "views")
    counts = {"pairs_masked": 0, "pairs_total": 0, "anchors_without_negatives": 0}

    def step(chosen: NDArray[np.int64]) -> float:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        video_B = torch.from_numpy(data.videos[chosen])
        frame_B = torch.from_numpy(data.frames[chosen])
        similar_BB = (
            content_similarity(images_B1HW, threshold=settings.content_threshold)
            if settings.gap == "content" and settings.min_frame_gap > 0
            else None
        )
        gap = settings.gap if settings.min_frame_gap > 0 else "frames"
        views = [
            contrastive_view(
                images_B1HW, generator, crop=settings.crop, jitter=settings.jitter,
                jitter_probability=settings.jitter_probability,
            )
            for _ in range(2)
        ]  # fmt: skip

        def loss_of(z_KD: Tensor) -> Tensor:
            z_a, z_b = z_KD.chunk(2)
            return mt_nxent(
                z_a,
                z_b,
                video_B,
                frame_B,
                min_frame_gap=settings.min_frame_gap,
                temperature=settings.temperature,
                positives=settings.positives,
                near_frames=settings.near_gap,
                gap=gap,
                similar=similar_BB,
            )

        masked, total = pairs_masked(
            video_B, frame_B, min_frame_gap=settings.min_frame_gap, gap=gap, similar=similar_BB
        )
        counts["pairs_masked"] += masked
        counts["pairs_total"] += total
        counts["anchors_without_negatives"] += anchors_without_negatives(
            video_B, frame_B, min_frame_gap=settings.min_frame_gap, positives=settings.positives,
            near_frames=settings.near_gap, gap=gap, similar=similar_BB,
        )  # fmt: skip
        value = cached_contrastive_step(
            network, torch.cat(views), loss_of, micro_batch=compute.micro_batch or 2 * len(chosen)
        )
        if anchor is not None:
            anchor.add_gradient(network)
        return float(value)

    progress = run_epochs(
        request, data, network, rows, step, make_optimizer(network.parameters(), settings)
    )
    network.cpu()
    keep_norm(request, network)
    metrics = {
        **progress.metrics(),
        **counts,
    }
    return Result(metrics, shared_state(network, study.federation.norm))
