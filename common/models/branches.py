"""The network of each stage, and what of one stage's weights the next one starts from."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from common.config.data import nearest
from common.config.selection import Classify, Diffusion, Sphere
from common.config.study import Study
from common.errors import InputError
from common.models.projection import ProjectionHead
from common.models.transunet import TransUNet, TransUNetConfig
from common.plan import Training
from common.plugins import load_plugin
from common.seeds import seed_of

State = dict[str, Tensor]
"""A state dict: names to tensors, in the order of the model."""

SELECTION_STAGES = ("source_classifier", "diffusion", "sphere", "classify")
"""Stages of the second half that train a network of their own."""

LOCAL_ONLY = "num_batches_tracked"
"""BatchNorm's step counter: no round needs it, so it never crosses."""


class SegmentationModel(Protocol):
    """What a study's network must offer: TransUNet does, and so must somebody's own.

    Its `encoder` submodule is what pretraining hands to fine-tuning: parameters outside it start
    fresh. `feature` gives (B, D) image features for the contrastive branch.
    """

    encoder: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) grey images to (B, classes, H, W) logits."""

    def feature(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) grey images to (B, D) features of the encoder."""


class Contrasting(nn.Module):
    """An encoder under a projection head (P1 3.2.2); the decoder takes no part."""

    def __init__(self, network: nn.Module, width: int, projection: int) -> None:
        super().__init__()
        self.network = network
        self.projection = ProjectionHead(width, projection)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, 1, H, W) images to (B, P) projections, not normalised."""
        features_BD: Tensor = cast(SegmentationModel, self.network).feature(images_BCHW)
        projected_BP: Tensor = self.projection(features_BD)
        return projected_BP


def model_config(study: Study, classes: int) -> TransUNetConfig:
    """The TransUNet that a study asks for."""
    config = TransUNetConfig.preset(
        study.model.preset, image_size=study.model.image_size, classes=classes
    )
    known = [field.name for field in fields(config)]
    unknown = [key for key in study.model.options if key not in known]
    if unknown:
        raise InputError(
            [f"model.options.{key}: unknown key{nearest(key, known)}" for key in unknown]
        )
    return replace(
        config, geometry=study.model.geometry, dropout=study.model.dropout, **study.model.options
    )


def segmentation_network(study: Study, classes: int | None = None) -> nn.Module:
    """The study's network with its own random start, or somebody's own by name."""
    channels = classes or study.channels
    if study.model.name:
        factory = load_plugin(study.model.name, "model.name")
        return cast(
            nn.Module,
            factory(image_size=study.model.image_size, classes=channels, **study.model.options),
        )
    return TransUNet(model_config(study, channels))


def network_of(study: Study, training: Training, members: int = 2) -> nn.Module:
    """The network that a training's sites train.

    `mim` reconstructs one grey channel; `contrastive` is the encoder under a projection head;
    `adapt` holds the members side by side; the second half has classifiers, spheres and the
    diffusion model; everything else segments.
    """
    if training.stage == "mim":
        return segmentation_network(study, classes=1)
    if training.stage == "contrastive":
        network = segmentation_network(study)
        for name in ("decoder", "head"):
            if hasattr(network, name):
                delattr(network, name)
        width = feature_width(study)
        return Contrasting(network, width, study.contrastive.projection)
    if training.stage == "adapt":
        return nn.ModuleList(segmentation_network(study) for _ in training.start)
    side = study.model.image_size
    if training.stage in ("source_classifier", "classify"):
        from common.models.classifier import Classifier

        return Classifier(training.architecture, len(study.labels), side)
    if training.stage == "sphere":
        from common.models.sphere import SphereNetwork

        sphere = cast(Sphere, training.settings)
        return SphereNetwork(sphere.architecture, sphere.hidden, sphere.dimension, side)
    if training.stage == "diffusion":
        # A study without it need not pay for importing diffusers.
        from common.models.diffusion import DiffusionModel

        return DiffusionModel(cast(Diffusion, training.settings), side)
    return segmentation_network(study)


@lru_cache(maxsize=64)
def _classifier_width(architecture: str, side: int) -> int:
    from common.models.classifier import Classifier

    with torch.device("meta"):
        return Classifier(architecture, 2, side).width


def classifier_width(study: Study) -> int:
    """F of the features of the classifier that the sphere starts from."""
    return _classifier_width(study.sphere.architecture, study.model.image_size)


def norm_of(study: Study, training: Training) -> str:
    """How BatchNorm crosses: as the study says in the first half, averaged in the second.

    What chooses images must be one network at all sites.
    """
    return "average" if training.stage in SELECTION_STAGES else study.federation.norm


def feature_width(study: Study) -> int:
    """D of the features that the encoder gives, found on the meta device."""
    if study.model.name is None:
        return model_config(study, 1).hidden
    with torch.device("meta"):
        network = segmentation_network(study)
        side = study.model.image_size
        features_BD = cast(SegmentationModel, network).feature(torch.empty(2, 1, side, side))
    return int(features_BD.shape[1])


def shared_state(network: nn.Module, norm: str = "average") -> State:
    """The tensors of a network that cross the wire, in its own order.

    Args:
        network: Any stage's network.
        norm: "local" keeps everything of every BatchNorm at the site (FedBN).
    """
    own = batch_norm_names(network) if norm == "local" else set()
    return OrderedDict(
        (name, tensor)
        for name, tensor in network.state_dict().items()
        if not name.endswith(LOCAL_ONLY) and name not in own
    )


def returned_state(network: nn.Module, training: Training, norm: str = "average") -> State:
    """The shared tensors that come back from a round: those that it may have changed.

    All of them, but where a classifier's last layer alone learns: what lies under it stands still,
    so the server has it already, and a hospital need not let it out.
    """
    state = shared_state(network, norm)
    settings = training.settings
    if isinstance(settings, Classify) and settings.trained == "last_layer":
        from common.models.classifier import Classifier

        names = cast(Classifier, network).head_names
        return OrderedDict((name, tensor) for name, tensor in state.items() if name in names)
    return state


def batch_norm_names(network: nn.Module) -> set[str]:
    """Names of every parameter and buffer of every BatchNorm."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name in module.state_dict()
    }


def load_shared(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put shared tensors into a network; what is not shared stays as it is."""
    network.load_state_dict({**network.state_dict(), **state}, strict=True)


def fresh(study: Study, training: Training) -> nn.Module:
    """A training's network at its random start.

    The same seed makes the same encoder and decoder for every arm, so arms differ by what they
    learned and not by their draw; a further member of a homogeneous ensemble has its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(study.seed, "initial", training.member))
        return network_of(study, training)


def untrained_encoder(study: Study) -> State:
    """The encoder where every pretraining starts: the floor that the arms are held against."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(study.seed, "initial", 0))
        return encoder_of(shared_state(segmentation_network(study), study.federation.norm))


def encoder_of(state: Mapping[str, Tensor]) -> State:
    """The encoder's tensors in a pretrained state, named as the segmentation network names them."""
    return OrderedDict(
        (name.removeprefix("network."), tensor)
        for name, tensor in state.items()
        if name.startswith(("encoder.", "network.encoder."))
    )


def join_members(states: list[Mapping[str, Tensor]]) -> State:
    """Members side by side, as `adapt`'s network names them: `<index>.<name>`."""
    return OrderedDict(
        (f"{index}.{name}", tensor)
        for index, state in enumerate(states)
        for name, tensor in state.items()
    )


def member_of(state: Mapping[str, Tensor], index: int) -> State:
    """One member out of joined ones."""
    prefix = f"{index}."
    return OrderedDict(
        (name.removeprefix(prefix), tensor)
        for name, tensor in state.items()
        if name.startswith(prefix)
    )
