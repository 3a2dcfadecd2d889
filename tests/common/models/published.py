"""A slow oracle: the published TransUNet as plain functions over its own state dict.

Written from the published description, apart from our model and from timm: names and shapes of the
layout, standardised convolutions by hand, GroupNorm by hand, attention head by head.
"""

from math import sqrt

import torch
from torch import Tensor

State = dict[str, Tensor]

HYBRID = "transformer.embeddings.hybrid_model"


def shapes(
    *,
    side: int,
    layers: tuple[int, int, int],
    width: int,
    hidden: int,
    blocks: int,
    mlp: int,
    decoder: tuple[int, ...],
    head_channels: int,
    classes: int,
) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published state dict for these sizes (`width` = stem channels)."""
    out: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        out[f"{name}.weight"] = out[f"{name}.bias"] = (channels,)

    def linear(name: str, wide_in: int, wide_out: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = (wide_out, wide_in), (wide_out,)

    def conv_bn(name: str, channels_in: int, channels_out: int) -> None:
        out[f"{name}.0.weight"] = (channels_out, channels_in, 3, 3)
        norm(f"{name}.1", channels_out)
        out[f"{name}.1.running_mean"] = out[f"{name}.1.running_var"] = (channels_out,)
        out[f"{name}.1.num_batches_tracked"] = ()

    out[f"{HYBRID}.root.conv.weight"] = (width, 3, 7, 7)
    norm(f"{HYBRID}.root.gn", width)
    before = width
    for stage, depth in enumerate(layers, start=1):
        after, middle = width * 2 ** (stage + 1), width * 2 ** (stage - 1)
        for unit in range(1, depth + 1):
            name = f"{HYBRID}.body.block{stage}.unit{unit}"
            norm(f"{name}.gn1", middle)
            out[f"{name}.conv1.weight"] = (middle, before, 1, 1)
            norm(f"{name}.gn2", middle)
            out[f"{name}.conv2.weight"] = (middle, middle, 3, 3)
            norm(f"{name}.gn3", after)
            out[f"{name}.conv3.weight"] = (after, middle, 1, 1)
            if unit == 1:
                out[f"{name}.downsample.weight"] = (after, before, 1, 1)
                norm(f"{name}.gn_proj", after)
            before = after
    out["transformer.embeddings.patch_embeddings.weight"] = (hidden, before, 1, 1)
    out["transformer.embeddings.patch_embeddings.bias"] = (hidden,)
    out["transformer.embeddings.position_embeddings"] = (1, (side // 16) ** 2, hidden)
    for index in range(blocks):
        name = f"transformer.encoder.layer.{index}"
        norm(f"{name}.attention_norm", hidden)
        norm(f"{name}.ffn_norm", hidden)
        linear(f"{name}.ffn.fc1", hidden, mlp)
        linear(f"{name}.ffn.fc2", mlp, hidden)
        for part in ("query", "key", "value", "out"):
            linear(f"{name}.attn.{part}", hidden, hidden)
    norm("transformer.encoder.encoder_norm", hidden)
    conv_bn("decoder.conv_more", hidden, head_channels)
    skips = (8 * width, 4 * width, width, 0)
    before = head_channels
    for index, (channels, skip) in enumerate(zip(decoder, skips, strict=True)):
        conv_bn(f"decoder.blocks.{index}.conv1", before + skip, channels)
        conv_bn(f"decoder.blocks.{index}.conv2", channels, channels)
        before = channels
    out["segmentation_head.0.weight"] = (classes, before, 3, 3)
    out["segmentation_head.0.bias"] = (classes,)
    return out


def random_state(wanted: dict[str, tuple[int, ...]], seed: int) -> State:
    """Values at which every tensor matters: no ones, no zeros, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in wanted.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = values.abs() + 0.5
        elif len(shape) >= 2 and "position" not in name:
            state[name] = values / sqrt(values[0].numel())
        elif name.endswith("weight"):
            state[name] = 1 + 0.2 * values
        else:
            state[name] = 0.2 * values
    return state


def _standardised(weight: Tensor) -> Tensor:
    rows = []
    for kernel in weight:
        centred = kernel - kernel.sum() / kernel.numel()
        variance = (centred * centred).sum() / kernel.numel()
        rows.append(centred / torch.sqrt(variance + 1e-5))
    return torch.stack(rows)


def _conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """A convolution as one matrix product over unfolded windows, zero padding k // 2."""
    size = weight.shape[-1]
    windows = torch.nn.functional.unfold(x, size, padding=size // 2, stride=stride)
    side = (x.shape[-1] + 2 * (size // 2) - size) // stride + 1
    return (weight.flatten(1) @ windows).reshape(len(x), len(weight), side, side)


def _group_norm(x: Tensor, state: State, name: str, groups: int, eps: float) -> Tensor:
    B, C, H, W = x.shape
    out = x.reshape(B, groups, -1)
    mean = out.mean(-1, keepdim=True)
    variance = ((out - mean) ** 2).mean(-1, keepdim=True)
    out = ((out - mean) / torch.sqrt(variance + eps)).reshape(B, C, H, W)
    return out * state[f"{name}.weight"].reshape(-1, 1, 1) + state[f"{name}.bias"].reshape(-1, 1, 1)


def _layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    scaled = (x - mean) / torch.sqrt(variance + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _unit(x: Tensor, state: State, name: str, stride: int) -> Tensor:
    shortcut = x
    if f"{name}.downsample.weight" in state:
        shortcut = _conv(x, _standardised(state[f"{name}.downsample.weight"]), stride)
        shortcut = _group_norm(shortcut, state, f"{name}.gn_proj", shortcut.shape[1], 1e-5)
    y = x
    for index, step in ((1, 1), (2, stride)):
        y = _conv(y, _standardised(state[f"{name}.conv{index}.weight"]), step)
        y = _group_norm(y, state, f"{name}.gn{index}", 32, 1e-6).clamp(min=0)
    y = _group_norm(
        _conv(y, _standardised(state[f"{name}.conv3.weight"])), state, f"{name}.gn3", 32, 1e-6
    )
    return (shortcut + y).clamp(min=0)


def encode(state: State, images: Tensor, *, heads: int) -> tuple[Tensor, list[Tensor]]:
    """Tokens and skips, deepest first, without dropout."""
    x = torch.cat([images] * 3, dim=1) if images.shape[1] == 1 else images
    side = x.shape[-1]
    x = _conv(x, _standardised(state[f"{HYBRID}.root.conv.weight"]), 2)
    x = _group_norm(x, state, f"{HYBRID}.root.gn", 32, 1e-6).clamp(min=0)
    skips = [x]
    pooled = side // 4 - 1  # 3x3 windows, two apart, none over the edge
    x = torch.stack(
        [x[..., i : i + 2 * pooled : 2, j : j + 2 * pooled : 2] for i in range(3) for j in range(3)]
    ).amax(0)
    for stage in (1, 2, 3):
        unit = 1
        while f"{HYBRID}.body.block{stage}.unit{unit}.conv1.weight" in state:
            name = f"{HYBRID}.body.block{stage}.unit{unit}"
            x = _unit(x, state, name, 2 if stage > 1 and unit == 1 else 1)
            unit += 1
        if stage < 3:
            whole = side // 2 ** (stage + 1)
            padded = x.new_zeros(len(x), x.shape[1], whole, whole)
            padded[..., : x.shape[-2], : x.shape[-1]] = x
            skips.insert(0, padded)
    prefix = "transformer.embeddings"
    kernel = state[f"{prefix}.patch_embeddings.weight"].flatten(1)
    tokens = x.flatten(2).transpose(1, 2) @ kernel.T + state[f"{prefix}.patch_embeddings.bias"]
    tokens = tokens + state[f"{prefix}.position_embeddings"]
    index = 0
    while f"transformer.encoder.layer.{index}.attention_norm.weight" in state:
        name = f"transformer.encoder.layer.{index}"
        h = _layer_norm(tokens, state, f"{name}.attention_norm")
        query, key, value = (
            _linear(h, state, f"{name}.attn.{part}") for part in ("query", "key", "value")
        )
        width = query.shape[-1] // heads
        mixed = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = query[..., own] @ key[..., own].transpose(1, 2) / sqrt(width)
            mixed.append(scores.softmax(-1) @ value[..., own])
        tokens = tokens + _linear(torch.cat(mixed, -1), state, f"{name}.attn.out")
        h = _linear(_layer_norm(tokens, state, f"{name}.ffn_norm"), state, f"{name}.ffn.fc1")
        h = h * 0.5 * (1 + torch.erf(h / sqrt(2)))
        tokens = tokens + _linear(h, state, f"{name}.ffn.fc2")
        index += 1
    return _layer_norm(tokens, state, "transformer.encoder.encoder_norm"), skips


def _conv_bn_relu(x: Tensor, state: State, name: str) -> Tensor:
    x = _conv(x, state[f"{name}.0.weight"])
    mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
    scale = state[f"{name}.1.weight"] / torch.sqrt(variance + 1e-5)
    shift = state[f"{name}.1.bias"] - mean * scale
    return (x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)).clamp(min=0)


def _doubled(x: Tensor) -> Tensor:
    """Bilinear to twice the side, corners on corners, as a matrix on either side."""
    n = x.shape[-1]
    matrix = x.new_zeros(2 * n, n)
    for row in range(2 * n):
        place = row * (n - 1) / (2 * n - 1)
        low = min(int(place), n - 2)
        matrix[row, low], matrix[row, low + 1] = 1 - (place - low), place - low
    return matrix @ x @ matrix.T


def forward(state: State, images: Tensor, *, heads: int) -> Tensor:
    """Logits, BatchNorm by its running statistics."""
    tokens, skips = encode(state, images, heads=heads)
    B, N, hidden = tokens.shape
    grid = int(sqrt(N))
    x = tokens.transpose(1, 2).reshape(B, hidden, grid, grid)
    x = _conv_bn_relu(x, state, "decoder.conv_more")
    for index in range(4):
        x = _doubled(x)
        if index < 3:
            x = torch.cat((x, skips[index]), dim=1)
        x = _conv_bn_relu(x, state, f"decoder.blocks.{index}.conv1")
        x = _conv_bn_relu(x, state, f"decoder.blocks.{index}.conv2")
    bias = state["segmentation_head.0.bias"].reshape(-1, 1, 1)
    return _conv(x, state["segmentation_head.0.weight"]) + bias
