"""The same network in cheaper arithmetic, each part in what it bears.

Nearly all of bfloat16's error sits in the ResNet, which is a seventh of the work: it stays float32.
The transformer's matrix products, two thirds of the work, bear int8 (weights per output channel,
activations by their own range, frame by frame), and the decoder's first half bears bfloat16.
"""

import copy
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from common.bundle.classifiers import Classifiers
from common.bundle.ensemble import Ensemble
from common.bundle.fold import folded
from common.bundle.member import logits_and_feature
from common.errors import InputError
from common.models.transunet import Decoder, Encoded, TransUNet

Precision = Literal["fp32", "bf16", "int8"]
EXACT_BLOCKS = 2
SomeNetwork = TypeVar("SomeNetwork", bound=Ensemble | Classifiers)
PRECISIONS: tuple[str, ...] = get_args(Precision)


def in_precision(ensemble: SomeNetwork, precision: Precision, device: str = "cpu") -> SomeNetwork:
    """A copy for inference, BatchNorm and weight standardisation folded.

    Args:
        ensemble: With its weights; left as it is.
        precision: `fp32`; `int8`: ResNet float32, transformer int8, the decoder's first half
            bfloat16; `bf16`: everything in bfloat16. Of classifiers and somebody's own model
            `int8` quantises the linear layers.
        device: Where it will run. int8 is for CPUs.

    Raises:
        InputError: If this machine cannot do it.
    """
    if precision == "int8" and not device.startswith("cpu"):
        raise InputError(f"precision int8 runs on a CPU, not on {device}; take bf16 or fp32")
    twin: Any = folded(ensemble)
    for index, member in enumerate(twin.members):
        if precision == "int8":
            twin.members[index] = _quantised(member)
        elif precision == "bf16":
            twin.members[index] = _Autocast(member, device)
        twin.members[index].to(device)
    return twin  # type: ignore[no-any-return]


class _Autocast(nn.Module):
    """Convolutions and matrix products in bfloat16."""

    def __init__(self, member: nn.Module, device: str) -> None:
        super().__init__()
        self.member = member
        self.kind = device.partition(":")[0]

    def forward(self, images_B1SS: Tensor) -> Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            return self.member(images_B1SS)  # type: ignore[no-any-return]

    def logits_and_feature(self, images_B1SS: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            return logits_and_feature(self.member, images_B1SS)


def _quantised(member: Any) -> Any:
    if not isinstance(member, TransUNet):
        return _int8_linears(member)
    parts: Any = member
    parts.encoder.resnet = parts.encoder.resnet.to(memory_format=torch.channels_last)
    parts.encoder.blocks = _int8_linears(parts.encoder.blocks)
    parts.decoder = _Bfloat16Decoder(parts.decoder)
    return member


class _Bfloat16Decoder(nn.Module):
    """The decoder's wide half in bfloat16, channels last; its last blocks stay float32.

    The last two blocks are a twentieth of the work and, being nearest to the probabilities, a third
    of the error (docs/results/inference.md).
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        twin = copy.deepcopy(decoder).to(memory_format=torch.channels_last)
        self.conv_more = twin.conv_more.bfloat16()
        self.wide = nn.ModuleList(block.bfloat16() for block in twin.blocks[:-EXACT_BLOCKS])
        self.exact = nn.ModuleList(twin.blocks[-EXACT_BLOCKS:])

    def forward(self, encoded: Encoded) -> Tensor:
        skips: tuple[Tensor | None, ...] = (*encoded.skips, None)
        grid = encoded.skips[0].shape[-1] // 2
        tokens_BND = encoded.tokens_BND.bfloat16()
        B, _, D = tokens_BND.shape
        x = self.conv_more(tokens_BND.transpose(1, 2).reshape(B, D, grid, grid))
        for block, skip in zip(self.wide, skips, strict=False):
            x = block(x, _last(skip, torch.bfloat16))
        x = x.float()
        for block, skip in zip(self.exact, skips[len(self.wide) :], strict=True):
            x = block(x, _last(skip, torch.float32))
        return x  # type: ignore[no-any-return]


def _last(skip: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if skip is None else skip.to(dtype, memory_format=torch.channels_last)


def _int8_linears(module: nn.Module) -> Any:
    """Dynamic int8 in every `nn.Linear`, by oneDNN: full 8 bits on both sides."""
    import warnings

    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    engines = torch.backends.quantized.supported_engines
    if "onednn" not in engines:
        raise InputError("precision int8: this build of torch has no oneDNN; take bf16 or fp32")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its successor compiles, which takes minutes here
            quantise: Any = quantize_dynamic
            return quantise(module, {nn.Linear: per_channel_dynamic_qconfig})
    finally:
        torch.backends.quantized.engine = before
