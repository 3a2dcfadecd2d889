"""A classifier by its name in timm, over grey images, and the features under its last layer.

Shape legend: B images, C classes, D features, H = W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.config.data import nearest
from common.errors import InputError
from common.models.layouts import from_efficientnet_pytorch
from common.models.weights import read_tensors

__all__ = ["Classifier", "load_classifier_weights", "share_backbone"]

SHUFFLENETS = tuple(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0"))
"""P2's ShuffleNet: torchvision has it, timm has not."""


class Classifier(nn.Module):
    """A convolutional network or transformer with a linear layer on top, at its random start.

    Args:
        architecture: Any of timm's names, or torchvision's `shufflenet_v2_x*`.
        classes: C; 0 leaves the last layer out, and logits are features then.
        side: H; only networks built for one size (ViT, Swin) ask for it.

    Raises:
        InputError: If no such network is known, naming the nearest.
    """

    def __init__(self, architecture: str, classes: int, side: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes = classes
        self.network = _network(architecture, classes, side)
        self.width = self._width()
        last = self.last_layer
        if isinstance(last, nn.Linear):
            # timm draws the MobileNets' and EfficientNets' by the number of classes: right for a
            # thousand, so large for two that training from scratch stalls (docs/LOG.md).
            last.reset_parameters()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, 1, H, W) grey images in [0, 1] to (B, C) logits."""
        return self.head(self.features(images_BCHW))

    def features(self, images_BCHW: Tensor) -> Tensor:
        """(B, 1, H, W) grey images in [0, 1] to (B, D) pooled features."""
        images_B3HW = images_BCHW.expand(-1, 3, -1, -1)
        if self.architecture in SHUFFLENETS:
            maps_BDHW = images_B3HW
            for name, part in self.network.named_children():
                if name != "fc":
                    maps_BDHW = part(maps_BDHW)
            return maps_BDHW.mean(dim=(2, 3))
        network: Any = self.network
        features_BD: Tensor = network.forward_head(
            network.forward_features(images_B3HW), pre_logits=True
        )
        return features_BD

    def head(self, features_BD: Tensor) -> Tensor:
        """(B, D) features to (B, C) logits: the last, linear layer."""
        logits_BC: Tensor = self.last_layer(features_BD)
        return logits_BC

    @property
    def head_names(self) -> set[str]:
        """Names of the last layer's tensors in the state dict."""
        last = self.last_layer
        prefix = next(name for name, part in self.named_modules() if part is last)
        return {f"{prefix}.{name}" for name in last.state_dict()}

    @property
    def last_layer(self) -> nn.Module:
        """The last layer, (B, D) to (B, C)."""
        network: Any = self.network
        found = network.fc if self.architecture in SHUFFLENETS else network.get_classifier()
        return cast(nn.Module, found)

    def _width(self) -> int:
        network: Any = self.network
        if self.architecture in SHUFFLENETS:
            return int(network._stage_out_channels[-1])
        return int(network.head_hidden_size)


def _network(architecture: str, classes: int, side: int) -> nn.Module:
    if architecture in SHUFFLENETS:
        # Models only: nothing of torchvision that opens an image is imported (the walls allow it
        # to this file alone, and a test holds it to that).
        from torchvision import models

        network: nn.Module = models.get_model(architecture, weights=None, num_classes=classes or 1)
        if not classes:
            network.fc = nn.Identity()
        return network
    import timm

    if not timm.is_model(architecture):
        known = [*timm.list_models(), *SHUFFLENETS]
        raise InputError(f"architecture {architecture!r} is unknown{_nearest(architecture, known)}")
    try:
        published = timm.get_pretrained_cfg(architecture)
        sized = published is not None and published.fixed_input_size
        extra: dict[str, Any] = {"img_size": side} if sized else {}
        network = timm.create_model(architecture, num_classes=classes, in_chans=3, **extra)
    except RuntimeError as error:
        raise InputError(f"architecture {architecture!r}: {error}") from None
    if not hasattr(network, "forward_head") or not hasattr(network, "head_hidden_size"):
        raise InputError(f"architecture {architecture!r} does not part into features and a head")
    return network


def _nearest(architecture: str, known: list[str]) -> str:
    """The nearest name; of a thousand names, none is listed where none is near."""
    hint = nearest(architecture, known)
    return hint if hint.startswith("; did you mean") else "; timm has no such model"


def load_classifier_weights(classifier: Classifier, path: Path | str) -> None:
    """Fill a classifier from a local file with timm's (or torchvision's) own names.

    An EfficientNet's may have efficientnet_pytorch's. The last layer is taken only where it has as
    many classes; ImageNet's thousand are left out.

    Args:
        classifier: Filled in place; untouched where the file is refused.
        path: A state dict as .safetensors, .pth, .pt or .bin. Pickled code in it is never run.

    Raises:
        InputError: No such file, unreadable, or of another network; the first tensors are named.
    """
    what = f"weights {path}"
    raw = read_tensors(Path(path), what)
    if "_conv_stem.weight" in raw:
        raw = from_efficientnet_pytorch(raw, classifier.network.state_dict())
    found = {f"network.{name}": torch.as_tensor(tensor) for name, tensor in raw.items()}
    own = classifier.state_dict()
    head = classifier.head_names
    if any(name not in found or found[name].shape != own[name].shape for name in head):
        found = {name: tensor for name, tensor in found.items() if name not in head}
    needed = {n: t for n, t in own.items() if n not in head and not n.endswith("batches_tracked")}
    wrong = _misfits(needed, found)
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise InputError(f"{what}: not those of {classifier.architecture}: {shown}")
    classifier.load_state_dict({**own, **{n: t for n, t in found.items() if n in own}})


def _misfits(needed: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    wrong = []
    for name, tensor in needed.items():
        plain = name.removeprefix("network.")
        if name not in found:
            wrong.append(f"{plain} is missing")
        elif found[name].shape != tensor.shape:
            have, want = tuple(found[name].shape), tuple(tensor.shape)
            wrong.append(f"{plain} is {have}, not {want}")
    return wrong


def share_backbone(target: Classifier, state: Mapping[str, Tensor]) -> None:
    """Put another classifier's tensors below the last layer into one of the same architecture.

    Args:
        target: Filled in place, its last layer excepted.
        state: Of a classifier with any number of classes, as it crossed (without BatchNorm's
            counters; where BatchNorm stays local, without it).
    """
    own = target.state_dict()
    head = target.head_names
    taken = {name: tensor for name, tensor in state.items() if name in own and name not in head}
    with torch.no_grad():
        target.load_state_dict({**own, **taken})
