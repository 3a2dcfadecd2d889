"""Where the published layouts of a TransUNet's weights put each of our tensors.

Every function here renames (and joins or transposes) tensors; none touches a model or a file.

- published TransUNet: ``transformer.embeddings.hybrid_model.root.conv.weight``, ...
- JAX ImageNet-21k ``R50+ViT-B_16.npz``: ``conv_root/kernel``, ``Transformer/encoderblock_0/...``
- timm ``vit_base_r50_s16_224``: ``patch_embed.backbone.stem.conv.weight``, ``blocks.0...``
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.errors import InputError

__all__ = ["from_official", "load_strict"]

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
    renamed = {_official_name(name): tensor for name, tensor in state_dict.items()}
    for name in [n for n in renamed if ".attn.query." in n]:
        names = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(n in renamed for n in names):
            joined = torch.cat([renamed.pop(n) for n in names])
            renamed[name.replace(".query.", ".qkv.")] = joined
    return renamed


def load_strict(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Fill every parameter and buffer of a model, or say all that is in the way.

    Args:
        model: Filled in place, or left untouched where something is wrong.
        tensors: Our names. BatchNorm's ``num_batches_tracked`` may be absent.
        what: Words for the source, used in the sentences.

    Raises:
        InputError: Missing names, names left over, shapes that differ; all of them.
    """
    own = model.state_dict()
    problems = [
        f"{what}: tensor {name} is missing"
        for name in own
        if name not in tensors and not name.endswith("num_batches_tracked")
    ]
    problems += [f"{what}: tensor {name} fits nowhere" for name in tensors if name not in own]
    problems += [
        f"{what}: tensor {name} has shape {tuple(tensor.shape)}, "
        f"the model needs {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if problems:
        raise InputError(problems)
    model.load_state_dict(dict(tensors), strict=False)
