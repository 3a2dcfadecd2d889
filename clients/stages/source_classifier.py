"""source_classifier: a classifier trained on the source's labels (P2 2.2, 3).

The sphere starts from one, and every classifier that is fine-tuned on selected images from its own.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clients.augment import classification_view
from clients.classifiers import BATCH, keep_classifier, label_codes, plain, ready
from clients.data.site import SiteData
from clients.request import Request, Result
from clients.site import open_site
from clients.training import (
    Loss,
    accumulated,
    autocast,
    draws,
    make_optimizer,
    proximal_of,
    run_epochs,
    to_unit,
)
from common.classification import balanced_accuracy, confusion
from common.config.selection import Classify, SourceClassifier
from common.config.stages import Compute
from common.errors import InputError
from common.models.branches import fresh, load_shared, shared_state


class Validation:
    """Cross-entropy and confusion over the validation images, each once."""

    def __init__(self, loss: float, confusion_CC: NDArray[np.int64], patients: int) -> None:
        self.loss = loss
        self.patients = patients
        self.images = int(confusion_CC.sum())
        self.balanced_accuracy = balanced_accuracy(confusion_CC)

    def metrics(self) -> dict[str, float | int]:
        """As the reply has them."""
        return {
            "val_loss": self.loss,
            "val_balanced_accuracy": self.balanced_accuracy,
            "val_images": self.images,
            "val_patients": self.patients,
        }


def run(request: Request) -> Result:
    """One round: train, and hand back the epoch with the lowest validation cross-entropy.

    The site keeps a copy of it (clients/classifiers.py).

    Returns:
        The classifier of the best epoch, losses, validation loss and balanced accuracy.

    Raises:
        InputError: If a label is none of the study's, or all training images have the same.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, SourceClassifier)
    data = open_site(request.site, study)
    rows = data.split.train
    codes_N = codes_of(request, data)
    if len(np.unique(codes_N[rows])) < 2:
        raise InputError(
            f"site {request.site.name}: all training images are "
            f"{study.labels[int(codes_N[rows][0])]!r}; a classifier needs two classes"
        )
    network = fresh(study, training)
    load_shared(network, request.weights)
    ready(network, compute)

    best: dict[str, Tensor] = {}
    best_found: Validation | None = None
    best_epoch = 0

    def keep_best(epoch: int, _: float) -> None:
        nonlocal best, best_found, best_epoch
        found = validate(network, data, codes_N, compute)
        if best_found is None or found.loss < best_found.loss:
            best = copy.deepcopy(network.state_dict())
            best_found, best_epoch = found, epoch + 1

    progress = run_epochs(
        request,
        data,
        network,
        rows,
        accumulated(
            cross_entropy(request, network, data, codes_N, settings),
            compute.micro_batch,
            network,
            proximal_of(request, network),
        ),
        make_optimizer(network.parameters(), settings),
        after_epoch=keep_best,
    )
    assert best_found is not None
    network.load_state_dict(best)
    plain(network)
    state = shared_state(network)
    keep_classifier(request.site.folder, training.architecture, state)
    metrics = {
        **progress.metrics(best_epoch - 1),
        **best_found.metrics(),
        "best_epoch": best_epoch,
    }
    return Result(metrics, state)


def check(request: Request) -> Result:
    """Validate the incoming weights on the site's validation images."""
    compute = request.study.compute
    data = open_site(request.site, request.study)
    network = fresh(request.study, request.training)
    load_shared(network, request.weights)
    ready(network, compute)
    return Result(validate(network, data, codes_of(request, data), compute).metrics())


def codes_of(request: Request, data: SiteData) -> NDArray[np.int64]:
    """(N,) labels of the site's training and validation images; -1 elsewhere."""
    rows = np.concatenate([data.split.train, data.split.val])
    labels = data.labels(rows, stage="source_classifier")
    names = [data.rows[row].id for row in rows]
    codes_N = np.full(len(data), -1, dtype=np.int64)
    codes_N[rows] = label_codes(labels, names, request.study.labels, request.site.name)
    return codes_N


def cross_entropy(
    request: Request,
    network: nn.Module,
    data: SiteData,
    codes_N: NDArray[np.int64],
    settings: SourceClassifier | Classify,
) -> Loss:
    """Plain cross-entropy of one micro-batch, every image weighing the same (P2 3).

    Args:
        request: Its seed drives the augmentation.
        network: The classifier.
        data: The site's.
        codes_N: (N,) the label of each of the site's rows.
        settings: Whether images are flipped and rotated.
    """
    compute = request.study.compute
    generator = draws(request, "augmentation")

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        images_B1HW = to_unit(data.images(chosen), compute.device)
        if settings.augmentation:
            images_B1HW = classification_view(images_B1HW, generator)
        with autocast(compute):
            logits_BC = network(images_B1HW)
        targets_B = torch.from_numpy(codes_N[chosen]).to(compute.device)
        return F.cross_entropy(logits_BC.float(), targets_B)

    return loss


def validate(
    network: nn.Module, data: SiteData, codes_N: NDArray[np.int64], compute: Compute
) -> Validation:
    """Cross-entropy and confusion over the whole validation set, exact whatever the batches."""
    rows = data.split.val
    total, logits = 0.0, []
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            with autocast(compute):
                logits_BC = network(to_unit(data.images(part), compute.device)).double().cpu()
            targets_B = torch.from_numpy(codes_N[part])
            total += float(F.cross_entropy(logits_BC, targets_B, reduction="sum"))
            logits.append(logits_BC.numpy())
    logits_NC = np.concatenate(logits)
    found_CC = confusion(logits_NC.argmax(axis=1), codes_N[rows], logits_NC.shape[1])
    return Validation(total / len(rows), found_CC, len(np.unique(data.clusters[rows])))
