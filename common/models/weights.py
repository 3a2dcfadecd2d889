"""Initial weights from a local file, whichever of the known layouts it has.

P1's lower and upper bounds start from ImageNet, everything else from random. Nothing is ever
downloaded: a study names a path.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import InputError
from common.models.layouts import (
    from_npz,
    from_official,
    from_timm,
    misfits,
    refuse,
    resize_positions,
)
from common.models.transunet import TransUNet

__all__ = ["Layout", "LoadReport", "load_local"]

Layout = Literal["imagenet21k-npz", "timm", "transunet", "sonofed"]

POSITIONS = "encoder.positions"
ENCODER_ONLY: tuple[Layout, ...] = ("imagenet21k-npz", "timm")


@dataclass(frozen=True)
class LoadReport:
    """What came out of a weights file.

    Attributes:
        path: The file.
        layout: Which layout it has.
        loaded: Our names of the tensors filled from it, sorted.
        fresh: Our names of the tensors that keep their initial values, sorted.
        unused: The file's tensors that have no place here (class token, classifier), sorted.
        resized: Whether the positions were stretched to another grid.
    """

    path: Path
    layout: Layout
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    resized: bool

    def __str__(self) -> str:
        kept = sorted({name.split(".")[0] for name in self.fresh})
        return (
            f"{self.path.name}: {self.layout} layout, {len(self.loaded)} tensors loaded"
            + (", positions resized" if self.resized else "")
            + (f"; fresh: {', '.join(kept)}" if kept else "")
            + (f"; unused: {', '.join(self.unused)}" if self.unused else "")
        )


def load_local(model: TransUNet, path: Path | str) -> LoadReport:
    """Fill a model from a local file.

    Known are the published ImageNet-21k ``R50+ViT-B_16.npz``, timm's ``vit_base_r50_s16_224`` as
    safetensors (``geometry="timm"`` only), a state dict of the published TransUNet (``.pth``,
    ``.pt`` or safetensors), and our own state dict. The first two fill the encoder; decoder and
    head stay as they are. A published TransUNet with another number of classes fills all but the
    head. Positions of another grid are stretched.

    Args:
        model: Filled in place; untouched where the file is refused.
        path: The file. Pickled code in it is never run.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: No such file, unreadable, no known layout, or of other sizes than the model.
    """
    path = Path(path)
    what = f"weights {path}"
    raw = read_tensors(path, what)
    layout = _layout(raw, what)
    if layout == "timm" and model.config.geometry != "timm":
        raise InputError(f'{what}: timm\'s weights need model.geometry = "timm"')
    tensors = _renamed(raw, layout)
    resized = _fit_positions(tensors, model.config.grid)
    own = model.state_dict()
    needed = {
        name: tensor
        for name, tensor in own.items()
        if name.startswith("encoder.") or layout not in ENCODER_ONLY
    }
    head = [name for name in needed if name.startswith("head.")]
    if layout != "sonofed" and any(
        name in tensors and tensors[name].shape != own[name].shape for name in head
    ):
        for name in head:
            del needed[name]
            tensors.pop(name, None)
    refuse(misfits(needed, tensors, what))
    filled = {name: tensors[name] for name in needed if name in tensors}
    model.load_state_dict(filled, strict=False)
    return LoadReport(
        path=path,
        layout=layout,
        loaded=tuple(sorted(filled)),
        fresh=tuple(sorted(set(own) - set(filled))),
        unused=tuple(sorted(set(tensors) - set(filled))),
        resized=resized,
    )


def read_tensors(path: Path, what: str) -> dict[str, Any]:
    """Every tensor or array of the file under its own name."""
    if not path.is_file():
        raise InputError(f"{what}: there is no such file")
    try:
        match path.suffix:
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
            case ".safetensors":
                return dict(load_file(path))
            case ".pth" | ".pt" | ".bin":
                return _unwrapped(torch.load(path, map_location="cpu", weights_only=True), what)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise InputError(f"{what}: unreadable ({_first_line(error)})") from error
    except Exception as error:  # torch.load raises RuntimeError, UnpicklingError and others
        raise InputError(
            f"{what}: not a plain state dict ({_first_line(error)}); "
            "only tensors are read, pickled objects are not"
        ) from error
    raise InputError(f"{what}: the ending must be .npz, .safetensors, .pth, .pt or .bin")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _unwrapped(content: object, what: str) -> dict[str, Any]:
    """The state dict itself, out of a checkpoint's wrapping and a parallel wrapper's prefix."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{what}: holds no state dict (names to tensors)")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _layout(raw: Mapping[str, Any], what: str) -> Layout:
    if "conv_root/kernel" in raw and "embedding/kernel" in raw:
        return "imagenet21k-npz"
    if any(name.startswith("transformer.embeddings.hybrid_model.") for name in raw):
        return "transunet"
    if any(name.startswith("patch_embed.backbone.") for name in raw):
        return "timm"
    if any(name.startswith("encoder.resnet.") for name in raw):
        return "sonofed"
    shown = ", ".join(list(raw)[:3]) or "nothing"
    raise InputError(
        f"{what}: no known layout (it holds {shown}, ...); known are the ImageNet-21k "
        "R50+ViT-B_16.npz, timm's vit_base_r50_s16_224 and the published TransUNet"
    )


def _renamed(raw: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
    match layout:
        case "imagenet21k-npz":
            return from_npz(raw)
        case "timm":
            return from_timm(raw)
        case "transunet":
            return from_official(raw)
        case "sonofed":
            return dict(raw)


def _fit_positions(tensors: dict[str, Tensor], grid: int) -> bool:
    positions = tensors.get(POSITIONS)
    if positions is None or positions.ndim != 3 or positions.shape[1] == grid**2:
        return False
    tensors[POSITIONS] = resize_positions(positions.float(), grid)
    return True
