"""Classifiers at a site: labels as numbers, what a network says of images, a source's own copy.

Shape legend: N images, D features, C classes, H = W pixels.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from clients.training import autocast, to_unit
from common.config.stages import Compute
from common.config.study import Study
from common.errors import InputError
from common.models.branches import State, load_shared
from common.models.classifier import Classifier

BATCH = 64
"""Images at a time where nothing is trained."""

NAMED = 5
"""Wrong labels that are named one by one."""


def label_codes(
    labels: Sequence[str], images: Sequence[str], classes: Sequence[str], site: str
) -> NDArray[np.int64]:
    """Each image's label as its place among the study's.

    Args:
        labels: (N,) as the manifest or the experts say them.
        images: (N,) the images' ids, for the error.
        classes: The study's `labels`.
        site: The site's name, for the error.

    Raises:
        InputError: Naming images whose label is none of the classes.
    """
    known = {name: place for place, name in enumerate(classes)}
    wrong = [
        f"site {site}: image {image!r} has the label {label!r}, which is none of "
        f"{', '.join(classes)}"
        for image, label in zip(images, labels, strict=True)
        if label not in known
    ]
    if wrong:
        more = len(wrong) - NAMED
        raise InputError(wrong[:NAMED] + ([f"and {more} more such images"] if more > 0 else []))
    return np.array([known[label] for label in labels], dtype=np.int64)


def load_classifier(study: Study, architecture: str, state: Mapping[str, Tensor]) -> Classifier:
    """A classifier with weights that came, on the study's device, ready to be asked.

    Args:
        study: The study.
        architecture: Of the classifier.
        state: Its tensors as they cross.
    """
    with torch.random.fork_rng(devices=[]):
        network = Classifier(architecture, len(study.labels), study.model.image_size)
    load_shared(network, state)
    ready(network, study.compute)
    network.eval()
    return network


def ready(network: nn.Module, compute: Compute) -> None:
    """Onto the device, channels last: faster for small and depthwise convolutions on a CPU."""
    network.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def plain(network: nn.Module) -> None:
    """Back onto the CPU, in torch's usual layout."""
    network.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def features_of(
    classifier: Classifier, images_NHW: NDArray[np.uint8], compute: Compute
) -> NDArray[np.float32]:
    """(N, H, W) grey bytes to (N, D) pooled features, in evaluation mode."""
    return rows_of(classifier, _units(images_NHW, compute), compute, classifier.features)


def probabilities_of(
    classifier: Classifier, images_NHW: NDArray[np.uint8], compute: Compute
) -> NDArray[np.float32]:
    """(N, H, W) grey bytes to (N, C) probabilities, in evaluation mode."""
    return rows_of(
        classifier,
        _units(images_NHW, compute),
        compute,
        lambda images_B1HW: classifier(images_B1HW).float().softmax(dim=1),
    )


def rows_of(
    network: nn.Module,
    batches: Iterable[Tensor],
    compute: Compute,
    say: Callable[[Tensor], Tensor],
) -> NDArray[np.float32]:
    """What a network says of images, a row each.

    A batch is filled up to `BATCH` images: libraries choose how they multiply by the batch's size,
    and the same row in another size can differ in its last bits. So a row depends on its image
    alone, not on how many others a site has.

    Args:
        network: Asked in evaluation mode, and put back to what it was.
        batches: (B, 1, H, W) in [0, 1] on the device.
        compute: Precision.
        say: (B, 1, H, W) to (B, D).

    Returns:
        (N, D).
    """
    was_training = network.training
    network.eval()
    with torch.inference_mode(), autocast(compute):
        parts = [
            say(filled(images_B1HW)).float().cpu().numpy()[: len(images_B1HW)]
            for images_B1HW in batches
        ]
    network.train(was_training)
    return np.concatenate(parts)


def filled(images_B1HW: Tensor) -> Tensor:
    """The batch with black images behind it, up to `BATCH` in all; a larger one as it is."""
    missing = BATCH - len(images_B1HW)
    return images_B1HW if missing <= 0 else F.pad(images_B1HW, (0,) * 7 + (missing,))


def _units(images_NHW: NDArray[np.uint8], compute: Compute) -> Iterator[Tensor]:
    """Batches of an array, which may be mapped from a file."""
    for start in range(0, len(images_NHW), BATCH):
        yield to_unit(images_NHW[start : start + BATCH], compute.device)


def _file(folder: Path, architecture: str) -> Path:
    return folder / "classifiers" / f"{architecture}.safetensors"


def keep_classifier(folder: Path, architecture: str, state: Mapping[str, Tensor]) -> None:
    """Keep a classifier in the site's own folder, in one move.

    A source keeps what it has trained: the memorisation check of its diffusion model looks at
    images through it.
    """
    path = _file(folder, architecture)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)


def own_classifier(folder: Path, architecture: str) -> State | None:
    """The classifier that the site has kept, if it has."""
    path = _file(folder, architecture)
    return load_file(path) if path.exists() else None
