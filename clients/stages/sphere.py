"""sphere: teacher on the image, student on its reconstruction, at each target (P2 2.2).

No label takes part. The ablations of P2 Table 3 differ in what the two see, and in the loss.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.augment import classification_view
from clients.classifiers import plain, ready, rows_of
from clients.reconstruction import reconstructions
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages.adapt import image_batches
from clients.training import (
    accumulated,
    autocast,
    draws,
    make_optimizer,
    proximal_of,
    run_epochs,
    to_unit,
)
from common.config.selection import Sphere
from common.models.branches import fresh, load_shared, shared_state
from common.models.sphere import SphereNetwork
from common.objectives.angular import angular_contrastive
from common.objectives.byol import byol
from common.objectives.collapse import effective_rank, mean_angle


def run(request: Request) -> Result:
    """One round over the site's pool.

    With `views = "reconstruction"` both see their picture as it is (P2 2.2). Augmentations, in the
    ablations, are P2's flip and rotation. With `normalise` off the loss is BYOL's (+CL).

    Returns:
        Student, predictor and teacher (the next round goes on with all three), the losses, and
        of the pool's embeddings after the round the mean pairwise angle in radians and the
        effective rank: a collapse shows in both.

    Raises:
        InputError: If the site has no reconstructions where they are needed.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Sphere)
    data = open_site(request.site, study)
    rows = training_rows(data, "sphere")
    network = fresh(study, training)
    assert isinstance(network, SphereNetwork)
    load_shared(network, request.weights)
    ready(network, compute)
    generator = draws(request, "augmentation")
    redrawn_NHW = (
        reconstructions(request.site, study) if settings.views == "reconstruction" else None
    )

    def views(chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        if redrawn_NHW is not None:
            places = np.searchsorted(rows, chosen)
            return images_B1HW, to_unit(redrawn_NHW[places], compute.device)
        if settings.views == "augmentation":
            return images_B1HW, classification_view(images_B1HW, generator)
        first = classification_view(images_B1HW, generator)
        return first, classification_view(images_B1HW, generator)

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        with autocast(compute):
            teacher_z, student_z = network(*views(chosen))
        if not settings.normalise:
            return byol(teacher_z, student_z)
        return angular_contrastive(teacher_z, student_z, m=settings.m, form=settings.form)

    progress = run_epochs(
        request,
        data,
        network,
        rows,
        accumulated(loss, compute.micro_batch, network, proximal_of(request, network)),
        make_optimizer(network.trained(), settings),
        after_step=lambda: network.follow(settings.ema_decay),
    )
    z_ND = rows_of(
        network,
        image_batches(data, rows, compute),
        compute,
        lambda images_B1HW: network.embed(images_B1HW, normalise=settings.normalise),
    )
    plain(network)
    metrics = {
        **progress.metrics(),
        "mean_angle": mean_angle(z_ND),
        "effective_rank": effective_rank(z_ND),
    }
    return Result(metrics, shared_state(network))
