"""Somebody's own parts held to their promises before a study begins, all mistakes at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch

from common.config.study import Study
from common.errors import InputError
from common.models.branches import SegmentationModel, encoder_of, segmentation_network
from common.plugins import load_plugin

SIDE = 16
"""Pixels of the square that a loss or a confidence is tried on."""


def check_own_parts(study: Study) -> None:
    """Import every part that a study names, and try it on a small tensor.

    The model is built and run on the meta device: shapes, no arithmetic. Readers are tried by
    their sites, on the sites' files.

    Raises:
        InputError: With every part that is not there, or not what docs/extending.md says.
    """
    problems: list[str] = []
    for check in _checks(study):
        try:
            check()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def _checks(study: Study) -> Iterator[Callable[[], None]]:
    if study.model.name:
        yield lambda: _check_model(study)
    losses = {
        getattr(study, stage).loss: f"{stage}.loss"
        for stage in (
            "finetune_selected",
            "upper",
            "lower",
            "finetune_contrastive",
            "finetune_mim",
        )
    }
    for name, key in losses.items():
        if ":" in name:
            yield partial(_check_loss, name, key, study.channels)
    if ":" in study.infusion.confidence:
        yield lambda: _check_confidence(study.infusion.confidence, study.channels)
    if ":" in study.federation.aggregation:
        yield lambda: _import(study.federation.aggregation, "federation.aggregation")


def _import(name: str, key: str) -> None:
    load_plugin(name, key)


def _check_model(study: Study) -> None:
    key, side = f"model.name: {study.model.name!r}", study.model.image_size
    stages = ("finetune_mim", "finetune_contrastive", "lower", "upper")
    if any(getattr(study, stage).from_weights for stage in stages):
        raise InputError("from_weights: [model] weights are the TransUNet's, not your own model's")

    def build() -> tuple[Any, Any, Any]:
        with torch.device("meta"):
            network = segmentation_network(study)
            images_B1HW = torch.empty(2, 1, side, side)
            feature = cast(SegmentationModel, network).feature(images_B1HW)
            return network, network(images_B1HW), feature

    network, logits, feature = _tried(key, build)
    _has_shape(key, "forward", logits, (2, study.channels, side, side))
    if not isinstance(feature, torch.Tensor) or feature.dim() != 2 or len(feature) != 2:
        raise InputError(f"{key}: feature gives {_shape(feature)}, not (images, D)")
    if not encoder_of(network.state_dict()):
        raise InputError(f"{key}: has no weights in a submodule named encoder, so nothing of it "
                         "would be pretrained")  # fmt: skip


def _check_loss(name: str, key: str, channels: int) -> None:
    loss = load_plugin(name, key)
    logits_BCHW = torch.zeros(2, channels, SIDE, SIDE, requires_grad=True)
    targets_BCHW = torch.zeros(2, channels, SIDE, SIDE)
    targets_BCHW[..., : SIDE // 2] = 1
    what = f"{key}: {name!r}"
    value = _tried(what, lambda: loss(logits_BCHW, targets_BCHW))
    _has_shape(what, "the loss", value, ())
    if not value.requires_grad:
        raise InputError(f"{what}: has no gradient with respect to the logits")


def _check_confidence(name: str, channels: int) -> None:
    key = "infusion.confidence"
    confidence = load_plugin(name, key)
    p_BCHW = torch.linspace(0, 1, 2 * channels * SIDE * SIDE).view(2, channels, SIDE, SIDE)
    what = f"{key}: {name!r}"
    value = _tried(what, lambda: confidence(p_BCHW))
    _has_shape(what, "the confidence", value, tuple(p_BCHW.shape))
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{what}: is not finite everywhere on [0, 1]; 0 and 1 are legal")


def _tried(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InputError:
        raise
    except Exception as error:  # somebody's code may raise anything
        raise InputError(f"{what}: {type(error).__name__}: {error}") from None


def _has_shape(what: str, which: str, value: Any, shape: tuple[int, ...]) -> None:
    if _shape(value) != str(shape):
        raise InputError(f"{what}: {which} gives {_shape(value)}, not {shape}")


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
