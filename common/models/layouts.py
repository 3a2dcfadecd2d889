"""Where published layouts of weights put each of our tensors.

Every function here renames (and joins or transposes) tensors; none touches a model or a file.

- published TransUNet: ``transformer.embeddings.hybrid_model.root.conv.weight``, ...
- JAX ImageNet-21k ``R50+ViT-B_16.npz``: ``conv_root/kernel``, ``Transformer/encoderblock_0/...``
- timm ``vit_base_r50_s16_224``: ``patch_embed.backbone.stem.conv.weight``, ``blocks.0...``

And an EfficientNet's in the layout of efficientnet_pytorch: ``_blocks.0._depthwise_conv.weight``.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError

__all__ = [
    "from_efficientnet_pytorch",
    "from_npz",
    "from_official",
    "from_timm",
    "load_strict",
    "misfits",
    "refuse",
    "resize_positions",
]

MOST_PROBLEMS = 20

_RESNET = "transformer.embeddings.hybrid_model."
_LAYER = "transformer.encoder.layer."

_OFFICIAL: tuple[tuple[str, str], ...] = (
    (rf"^{re.escape(_RESNET)}root\.conv\.", "encoder.resnet.stem.conv."),
    (rf"^{re.escape(_RESNET)}root\.gn\.", "encoder.resnet.stem.norm."),
    (r"^transformer\.embeddings\.patch_embeddings\.", "encoder.embed."),
    (r"^transformer\.embeddings\.position_embeddings$", "encoder.positions"),
    (r"^transformer\.encoder\.encoder_norm\.", "encoder.norm."),
    (r"^segmentation_head\.0\.", "head."),
)
_OFFICIAL_UNIT = {
    "conv1": "conv1",
    "conv2": "conv2",
    "conv3": "conv3",
    "gn1": "norm1",
    "gn2": "norm2",
    "gn3": "norm3",
    "downsample": "downsample.conv",
    "gn_proj": "downsample.norm",
}
_OFFICIAL_LAYER = {
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "attn.out": "attn.proj",
    "ffn.fc1": "mlp.fc1",
    "ffn.fc2": "mlp.fc2",
}
_UNIT = re.compile(rf"^{re.escape(_RESNET)}body\.block(\d+)\.unit(\d+)\.(\w+)\.(weight|bias)$")
_BLOCK = re.compile(rf"^{re.escape(_LAYER)}(\d+)\.([\w.]+)\.(weight|bias)$")


def _official_name(name: str) -> str:
    if unit := _UNIT.match(name):
        stage, block, part, kind = unit.groups()
        part = _OFFICIAL_UNIT.get(part, part)
        return f"encoder.resnet.stages.{int(stage) - 1}.blocks.{int(block) - 1}.{part}.{kind}"
    if layer := _BLOCK.match(name):
        index, part, kind = layer.groups()
        return f"encoder.blocks.{index}.{_OFFICIAL_LAYER.get(part, part)}.{kind}"
    for pattern, replacement in _OFFICIAL:
        renamed, hits = re.subn(pattern, replacement, name)
        if hits:
            return renamed
    return name  # decoder names are the published ones; anything else stays and is refused


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published TransUNet's state dict; query, key and value become one matrix.

    Args:
        state_dict: Published names. Names that belong to no part are passed through.

    Returns:
        Our names. A block that lacks one of query, key, value keeps the others unjoined, so that a
        strict load names them.
    """
    return _joined({_official_name(name): tensor for name, tensor in state_dict.items()})


def _joined(renamed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack each block's query, key and value into the one matrix of ours."""
    for name in [n for n in renamed if ".attn.query." in n]:
        names = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(n in renamed for n in names):
            renamed[name.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(n) for n in names])
    return renamed


def from_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's ``vit_base_r50_s16_224``; the class token and its position are dropped.

    Args:
        state_dict: timm's names.

    Returns:
        Our encoder's names; timm's classifier and what else fits nowhere keep theirs.
    """
    renamed = {}
    for name, tensor in state_dict.items():
        if name == "pos_embed":
            renamed["encoder.positions"] = _without_class_token(tensor)
        elif name.startswith("patch_embed.backbone."):
            renamed[name.replace("patch_embed.backbone.", "encoder.resnet.", 1)] = tensor
        elif name.startswith("patch_embed.proj."):
            renamed[name.replace("patch_embed.proj.", "encoder.embed.", 1)] = tensor
        elif name.startswith(("blocks.", "norm.")):
            renamed[f"encoder.{name}"] = tensor
        else:
            renamed[name] = tensor
    return renamed


_NPZ_UNIT = re.compile(r"^block(\d+)/unit(\d+)/(\w+)/(kernel|scale|bias)$")
_NPZ_BLOCK = re.compile(r"^Transformer/encoderblock_(\d+)/([\w/]+)/(kernel|scale|bias)$")
_NPZ_PARTS = {
    "conv_root": "encoder.resnet.stem.conv",
    "gn_root": "encoder.resnet.stem.norm",
    "embedding": "encoder.embed",
    "Transformer/encoder_norm": "encoder.norm",
}
_NPZ_UNIT_PARTS = {**_OFFICIAL_UNIT, "conv_proj": "downsample.conv"}
_ATTENTION = "MultiHeadDotProductAttention_1/"
_NPZ_BLOCK_PARTS = {
    "LayerNorm_0": "norm1",
    "LayerNorm_2": "norm2",
    f"{_ATTENTION}query": "attn.query",
    f"{_ATTENTION}key": "attn.key",
    f"{_ATTENTION}value": "attn.value",
    f"{_ATTENTION}out": "attn.proj",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
}


def _npz_tensor(part: str, kind: str, array: NDArray[np.float32]) -> Tensor:
    """JAX keeps inputs first, heads apart, and a norm's vectors as (1, 1, 1, C)."""
    if kind != "kernel":
        array = array.reshape(-1)
    elif part.endswith(("query", "key", "value")):  # (in, heads, width) to (out, in)
        array = array.reshape(array.shape[0], -1).T
    elif part.endswith("attn.proj"):  # (heads, width, out) to (out, in)
        array = array.reshape(-1, array.shape[-1]).T
    elif array.ndim == 4:  # HWIO to OIHW
        array = array.transpose(3, 2, 0, 1)
    else:
        array = array.T
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def from_npz(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Rename the ImageNet-21k ``R50+ViT-B_16.npz`` and bring its axes into torch's order.

    Args:
        arrays: The file's arrays.

    Returns:
        Our encoder's names; the class token, the classifier and what else fits nowhere keep theirs.
    """
    renamed: dict[str, Tensor] = {}
    for name, array in arrays.items():
        stem, _, kind = name.rpartition("/")
        if name == "Transformer/posembed_input/pos_embedding":
            tensor = torch.from_numpy(np.asarray(array, dtype=np.float32))
            renamed["encoder.positions"] = _without_class_token(tensor)
            continue
        if unit := _NPZ_UNIT.match(name):
            part = _NPZ_UNIT_PARTS.get(unit[3], unit[3])
            part = f"encoder.resnet.stages.{int(unit[1]) - 1}.blocks.{int(unit[2]) - 1}.{part}"
        elif (block := _NPZ_BLOCK.match(name)) and block[2] in _NPZ_BLOCK_PARTS:
            part = f"encoder.blocks.{block[1]}.{_NPZ_BLOCK_PARTS[block[2]]}"
        elif stem in _NPZ_PARTS:
            part = _NPZ_PARTS[stem]
        else:
            renamed[name] = torch.from_numpy(np.asarray(array))
            continue
        suffix = "bias" if kind == "bias" else "weight"
        renamed[f"{part}.{suffix}"] = _npz_tensor(part, kind, array)
    return _joined(renamed)


def _without_class_token(positions_1ND: Tensor) -> Tensor:
    """Positions of the grid alone; a class token comes first and makes their number odd."""
    N = positions_1ND.shape[1]
    return positions_1ND if int(N**0.5) ** 2 == N else positions_1ND[:, 1:]


def resize_positions(positions_1ND: Tensor, grid: int) -> Tensor:
    """Stretch learned positions to another grid, linearly and corner to corner.

    This is the published network's own rule.

    Args:
        positions_1ND: (1, old grid squared, D).
        grid: Tokens along a side of the new image.

    Returns:
        (1, grid squared, D).
    """
    _, N, D = positions_1ND.shape
    old = int(N**0.5)
    if old == grid:
        return positions_1ND
    map_1DHW = positions_1ND.reshape(1, old, old, D).permute(0, 3, 1, 2)
    map_1DHW = F.interpolate(map_1DHW, size=(grid, grid), mode="bilinear", align_corners=True)
    return map_1DHW.permute(0, 2, 3, 1).reshape(1, grid * grid, D)


def misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> list[str]:
    """One sentence for each tensor that a model needs and does not get, or gets misshapen.

    Args:
        own: What the model needs. BatchNorm's ``num_batches_tracked`` may be absent.
        tensors: What there is, under our names.
        what: Words for the source.
    """
    missing = [
        f"{what}: tensor {name} is missing"
        for name in own
        if name not in tensors and not name.endswith("num_batches_tracked")
    ]
    misshapen = [
        f"{what}: tensor {name} has shape {tuple(tensors[name].shape)}, "
        f"the model needs {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return missing + misshapen


def refuse(problems: Iterable[str]) -> None:
    """Raise what is wrong, if anything; a file for another size is not worth 300 sentences."""
    listed = list(problems)
    if len(listed) > MOST_PROBLEMS:
        rest = len(listed) - MOST_PROBLEMS
        listed = [*listed[:MOST_PROBLEMS], f"and {rest} more: is the file meant for other sizes?"]
    if listed:
        raise InputError(listed)


def load_strict(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Fill every parameter and buffer of a model, or say what is in the way.

    Args:
        model: Filled in place, or left untouched where something is wrong.
        tensors: Our names.
        what: Words for the source, used in the sentences.

    Raises:
        InputError: Missing names, names left over, shapes that differ.
    """
    own = model.state_dict()
    left_over = [f"{what}: tensor {name} fits nowhere" for name in tensors if name not in own]
    refuse(misfits(own, tensors, what) + left_over)
    model.load_state_dict(dict(tensors), strict=False)


_EFFICIENTNET = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_WIDENING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = _WIDENING | {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
"""The first stage's blocks widen nothing; timm numbers their norms from there."""


def from_efficientnet_pytorch(
    raw: Mapping[str, Tensor], wanted: Iterable[str]
) -> dict[str, Tensor]:
    """An EfficientNet's tensors from efficientnet_pytorch's names to timm's.

    Args:
        raw: The file's; blocks are numbered through.
        wanted: timm's names, which say how many blocks a stage has.

    Returns:
        By timm's names; a name that is not known stays as it is.
    """
    stages = {tuple(map(int, n.split(".")[1:3])) for n in wanted if n.startswith("blocks.")}
    blocks = [f"blocks.{stage}.{block}" for stage, block in sorted(stages)]
    widening = {name.split(".")[1] for name in raw if "._expand_conv." in name}
    found = {}
    for name, tensor in raw.items():
        head, _, rest = name.partition(".")
        if head == "_blocks":
            number, part, leaf = rest.split(".", 2)
            parts = _WIDENING if number in widening else _SEPARABLE
            if number.isdigit() and int(number) < len(blocks) and part in parts:
                name = f"{blocks[int(number)]}.{parts[part]}.{leaf}"
        elif head in _EFFICIENTNET:
            name = f"{_EFFICIENTNET[head]}.{rest}"
        found[name] = tensor
    return found
