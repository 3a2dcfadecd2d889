"""mim: masked image modelling on the site's own images, no labels (P1 3.2.1)."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.norm import keep_norm, take_norm
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.training import (
    accumulated,
    autocast,
    draws,
    make_optimizer,
    proximal_of,
    run_epochs,
    to_unit,
)
from common.config.stages import Mim
from common.models.branches import fresh, load_shared, shared_state
from common.objectives.mim import hide, mask_units, mim_loss


def run(request: Request) -> Result:
    """One round: hide mask units, redraw them, mean absolute error over what was hidden.

    Returns:
        The whole network (the next round needs its decoder too), and the losses.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Mim)
    data = open_site(request.site, study)
    rows = training_rows(data, "mim")
    network = fresh(study, training)
    load_shared(network, request.weights)
    take_norm(request, network)
    network.to(compute.device)
    generator = draws(request, "mask")
    side, unit = study.model.image_size, 16 * study.unit_patches

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        mask_B1HW = mask_units(
            len(chosen), side, unit=unit, ratio=settings.ratio, generator=generator
        ).to(compute.device)
        seen = hide(
            images_B1HW, mask_B1HW, unit=unit, noise_ratio=settings.noise_ratio,
            generator=generator,
        )  # fmt: skip
        with autocast(compute):
            drawn_B1HW = network(seen)
        return mim_loss(drawn_B1HW, images_B1HW, mask_B1HW)

    progress = run_epochs(
        request,
        data,
        network,
        rows,
        accumulated(loss, compute.micro_batch, network, proximal_of(request, network)),
        make_optimizer(network.parameters(), settings),
    )
    network.cpu()
    keep_norm(request, network)
    return Result(progress.metrics(), shared_state(network, study.federation.norm))
