"""The members and the infusion head as ONE network: what a bundle carries and what runs it.

Shape legend: B images, M members, C classes, S the model's side, D features of all members.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.bundle.classifiers import Classifiers
from common.bundle.files import ENSEMBLE, VERSION, WEIGHTS, check_version, read_json
from common.bundle.member import logits_and_feature
from common.config.base import Table, option
from common.config.stages import Infusion
from common.config.study import Model, Study
from common.errors import InputError
from common.fusion import Confidence, confidence_map, infuse
from common.models.branches import segmentation_network
from common.models.classifier import Classifier
from common.plugins import load_plugin

Calibration = Literal["none", "advised", "required"]
"""Whether BatchNorm's statistics fit any device: "advised" after AdaBN, whose statistics are the
mean over the study's devices; "required" after FedBN, where none ever left a site."""


Task = Literal["segmentation", "classification"]


class MemberEntry(Table):
    """One member of an ensemble."""

    name: str = option("", "key of the training that made it")
    stage: str = option("", "stage of that training")
    sha256: str = option("", "over the member's tensors")
    architecture: str = option("", "of a classifier; empty: the study's segmentation network")


class EnsembleConfig(Table):
    """`configs/ensemble.json`: all that it takes to build the network and use it."""

    version: int = option(VERSION, "of the bundle's layout", ge=1)
    task: Task = option("segmentation", "what the network says of an image")
    study: str = option("", "name of the study")
    arm: str = option("", "the study's arm that the members are of")
    budget: float = option(0.0, "of classifiers: share of the pool that was annotated", ge=0, le=1)
    members: tuple[MemberEntry, ...] = option((), "in the order of the weights")
    model: Model = option(Model, "the network every member is made of; of classifiers: the side")
    classes: tuple[str, ...] = option(
        (),
        "names of the mask's values 1.., empty: binary masks; of classifiers: the labels",
    )
    infusion: Infusion = option(Infusion, "the infusion head")
    calibration: Calibration = option("none", "whether BatchNorm fits any device")
    synthetic: bool = option(False, "whether any training image was simulated")

    @property
    def channels(self) -> int:
        """Probabilities: of an image's pixels, or of the image."""
        return max(1, len(self.classes))

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each channel."""
        return self.classes or ("foreground",)

    @property
    def own_parts(self) -> tuple[str, ...]:
        """Somebody's own code that the network needs, `package.module:name`."""
        if self.task == "classification":
            return ()
        named = (self.model.name, self.infusion.confidence)
        return tuple(name for name in named if name and ":" in name)


class Said(NamedTuple):
    """All that an ensemble says of a batch.

    Attributes:
        pred_BCSS: Fused probabilities.
        branches_BMCSS: Each member's own.
        features_BD: Each member's encoder feature, side by side.
    """

    pred_BCSS: Tensor
    branches_BMCSS: Tensor
    features_BD: Tensor


class Ensemble(nn.Module):
    """Members side by side under the confidence-aware infusion head (P1 3.2.3).

    The head works image by image, whatever the batch, so that a patient's mask does not depend on
    who else is in it: a study's `infusion.scope = "batch"` means a batch of one here.

    Args:
        members: At least one segmentation network of (B, 1, S, S) to (B, C, S, S) logits.
        infusion: The head's settings.
    """

    def __init__(self, members: Sequence[nn.Module], infusion: Infusion) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.infusion = infusion
        kind = infusion.confidence
        self.confidence = cast(
            Confidence, load_plugin(kind, "infusion.confidence") if ":" in kind else kind
        )

    def forward(self, images_B1SS: Tensor) -> Tensor:
        """Fused probabilities (B, C, S, S) of grey images in [0, 1]."""
        return self.fuse([member(images_B1SS).float().sigmoid() for member in self.members])

    def fuse(self, branches: Sequence[Tensor]) -> Tensor:
        """The infusion head over members' (B, C, S, S) probabilities; one passes unchanged."""
        if len(branches) == 1:
            return branches[0]
        return infuse(branches, confidence=self.confidence, form=self.infusion.form, scope="image")

    def say(self, images_B1SS: Tensor) -> Said:
        """Fused and single probabilities and the encoders' features, each image encoded once."""
        branches, features = [], []
        for member in self.members:
            logits, feature_BD = logits_and_feature(member, images_B1SS)
            branches.append(logits.float().sigmoid())
            features.append(feature_BD.float())
        return Said(self.fuse(branches), torch.stack(branches, dim=1), torch.cat(features, dim=1))


def pixel_confidence(pred_BCSS: Tensor) -> Tensor:
    """How sure the fused probability is of each pixel, 1 - H(p) / ln 2, in [0, 1]."""
    return confidence_map(pred_BCSS, "entropy")


Network = Ensemble | Classifiers
"""What a bundle carries; both say what they say by `say`."""


def build(config: EnsembleConfig) -> Network:
    """The network without its weights."""
    if config.task == "classification":
        classes, side = len(config.classes), config.model.image_size
        return Classifiers(
            [Classifier(member.architecture, classes, side) for member in config.members]
        )
    study = Study.model_construct(model=config.model, classes=config.classes)
    return Ensemble([segmentation_network(study) for _ in config.members], config.infusion)


def read_config(bundle: Path) -> EnsembleConfig:
    """A bundle's `configs/ensemble.json`.

    Raises:
        InputError: If it is missing, newer than this sonofed, or not of this format.
    """
    path = bundle / ENSEMBLE
    raw: dict[str, Any] = read_json(path)
    check_version(raw, path)
    try:
        config = EnsembleConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(
            [
                f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)
            ]
        ) from None
    if not config.members:
        raise InputError(f"{path}: names no member")
    if config.task == "classification" and len(config.classes) < 2:
        raise InputError(f"{path}: classifiers need two classes at least")
    return config


def network_def(bundle: str) -> Network:
    """For `configs/inference.json`: the network of a bundle folder, without its weights."""
    return build(read_config(Path(bundle))).eval()


def load_segmentation(bundle: Path) -> Ensemble:
    """As `load_ensemble`, of a bundle that segments.

    Raises:
        InputError: If it classifies, too.
    """
    network = load_ensemble(bundle)
    if not isinstance(network, Ensemble):
        raise InputError(f"{bundle}: classifies; this is for bundles that segment")
    return network


def load_ensemble(bundle: Path) -> Network:
    """The network with its weights, read from safetensors.

    Raises:
        InputError: If config or weights are not readable or do not fit each other.
    """
    ensemble = build(read_config(bundle))
    path = bundle / WEIGHTS
    try:
        ensemble.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not readable ({error})") from None
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit {ENSEMBLE} ({str(error).splitlines()[0]})"
        ) from None
    return ensemble.eval()
