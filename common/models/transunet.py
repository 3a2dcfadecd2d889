"""TransUNet: a ResNet and a transformer that encode, a convolutional decoder that segments.

P1 3.2 takes the default R50-ViT-B16 TransUNet for every branch. Its parts are timm's; what the
published network does differently from timm's registered hybrid is put right here and named:

- the stem is padded symmetrically and pooled without padding, so a 112 px map becomes 55 px; as a
  skip it is zero-padded right and bottom to 56 px;
- the norm of a projection shortcut has one group a channel;
- weight standardisation adds 1e-5, GroupNorm and LayerNorm 1e-6;
- no class token; dropout after the position embedding and inside the MLP, none in the attention.

``geometry="timm"`` keeps timm's own padding and norms instead, for its converted ImageNet weights.

Shape legend: B images, C channels, H and W pixels, N tokens (H/16 x W/16, row by row), D hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import torch
from timm.layers.norm_act import GroupNormAct
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InputError
from common.models.layouts import from_official, load_strict

__all__ = ["Encoded", "PresetName", "TransUNet", "TransUNetConfig", "load_official"]

Geometry = Literal["official", "timm"]
PresetName = Literal["tiny", "small", "r50-vit-b16"]

PATCH_PX = 16
GROUPS = 32
STEM_CHANNELS = 64


@dataclass(frozen=True)
class TransUNetConfig:
    """Sizes of a TransUNet; the defaults are P1's full size (105,275,921 parameters).

    Args:
        image_size: Side of the square images in px, a multiple of 16.
        resnet_layers: Bottlenecks in each of the three ResNet stages.
        width: Factor on the ResNet's channels (64 in the stem); at least .5, since GroupNorm has
            32 groups.
        hidden: Width of a token.
        blocks: Transformer blocks.
        heads: Attention heads; divides ``hidden``.
        mlp: Hidden width of a block's MLP.
        decoder: Channels after each of the four decoder blocks.
        head_channels: Channels the tokens are brought to before the first decoder block.
        classes: Output channels, one sigmoid each.
        dropout: Probability after the position embedding and in the MLPs, in [0, 1).
        geometry: ``"official"`` is the published TransUNet, ``"timm"`` fits timm's converted
            ``vit_base_r50_s16_224`` weights.

    Raises:
        InputError: Sizes that cannot make a network, all of them at once.
    """

    image_size: int = 224
    resnet_layers: tuple[int, int, int] = (3, 4, 9)
    width: float = 1.0
    hidden: int = 768
    blocks: int = 12
    heads: int = 12
    mlp: int = 3072
    decoder: tuple[int, int, int, int] = (256, 128, 64, 16)
    head_channels: int = 512
    classes: int = 1
    dropout: float = 0.1
    geometry: Geometry = "official"

    def __post_init__(self) -> None:
        problems = []
        if self.image_size < 2 * PATCH_PX or self.image_size % PATCH_PX:
            problems.append(
                f"model: image_size {self.image_size} does not tile; "
                f"it must be a multiple of {PATCH_PX} px, at least {2 * PATCH_PX}"
            )
        stem = STEM_CHANNELS * self.width
        if stem < GROUPS or stem % GROUPS:
            problems.append(
                f"model: width {self.width} gives {stem:g} stem channels; "
                f"{GROUPS} groups need a multiple of {GROUPS} (width .5, 1, 1.5, ...)"
            )
        if self.heads < 1 or self.hidden % self.heads:
            problems.append(f"model: heads {self.heads} does not divide hidden {self.hidden}")
        if len(self.resnet_layers) != 3 or min(self.resnet_layers, default=0) < 1:
            problems.append(f"model: resnet_layers needs three numbers >= 1: {self.resnet_layers}")
        if len(self.decoder) != 4 or min(self.decoder, default=0) < 1:
            problems.append(f"model: decoder needs four numbers >= 1: {self.decoder}")
        problems += [
            f"model: {name} {getattr(self, name)} must be at least 1"
            for name in ("hidden", "blocks", "mlp", "head_channels", "classes")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.dropout < 1:
            problems.append(f"model: dropout {self.dropout} must lie in [0, 1)")
        if self.geometry not in get_args(Geometry):
            problems.append(f"model: geometry {self.geometry!r} must be 'official' or 'timm'")
        if problems:
            raise InputError(problems)

    @classmethod
    def preset(cls, name: PresetName, *, image_size: int | None = None, classes: int = 1) -> Self:
        """A named size at any side that tiles.

        Args:
            name: ``"tiny"`` (2.9 M parameters) and ``"small"`` (5.0 M) train on two CPU cores;
                ``"r50-vit-b16"`` (105 M) is P1's.
            image_size: Side in px; by default 224 at full size, else 112.
            classes: Output channels.

        Raises:
            InputError: The name is none of these, or the side does not tile.
        """
        if name == "r50-vit-b16":
            return cls(image_size=image_size or 224, classes=classes)
        side = image_size or 112
        if name == "tiny":
            return cls(
                image_size=side,
                resnet_layers=(1, 1, 1),
                width=0.5,
                hidden=192,
                blocks=4,
                heads=3,
                mlp=768,
                decoder=(64, 32, 16, 8),
                head_channels=128,
                classes=classes,
            )
        if name == "small":
            return cls(
                image_size=side,
                resnet_layers=(1, 2, 2),
                width=0.5,
                hidden=192,
                blocks=6,
                heads=3,
                mlp=768,
                decoder=(128, 64, 32, 16),
                head_channels=256,
                classes=classes,
            )
        raise InputError(
            f"model: preset {name!r} is unknown; there are {', '.join(get_args(PresetName))}"
        )

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.image_size // PATCH_PX


class Encoded(NamedTuple):
    """What the encoder hands to the decoder.

    Attributes:
        tokens_BND: Tokens after the last norm.
        skips: Maps at 1/8, 1/4 and 1/2 of the side, deepest first.
    """

    tokens_BND: Tensor
    skips: tuple[Tensor, ...]


def _resnet(config: TransUNetConfig) -> Any:
    """The ResNet without its last stage; Any, since timm's parts are reached into by name."""
    official = config.geometry == "official"
    stem = int(STEM_CHANNELS * config.width)
    resnet: Any = ResNetV2(
        layers=list(config.resnet_layers),
        channels=(4 * stem, 8 * stem, 16 * stem),
        num_classes=0,
        global_pool="",
        stem_chs=stem,
        stem_type="" if official else "same",
        preact=False,
        norm_layer=partial(GroupNormAct, num_groups=GROUPS, eps=1e-6 if official else 1e-5),
        conv_layer=partial(StdConv2d, eps=1e-5) if official else partial(StdConv2dSame, eps=1e-8),
    )
    if official:
        resnet.stem.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0)
        for stage in resnet.stages:
            projection = stage.blocks[0].downsample
            channels = projection.norm.num_channels
            projection.norm = nn.GroupNorm(channels, channels, eps=1e-5)
        for module in resnet.modules():  # timm draws by fan-out, the published network by fan-in
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return resnet


def _block(config: TransUNetConfig) -> nn.Module:
    block: Any = Block(
        config.hidden,
        config.heads,
        mlp_ratio=(config.mlp + 0.5) / config.hidden,  # timm cuts the product; never one short
        qkv_bias=True,
        proj_drop=config.dropout,
        norm_layer=cast(type[nn.Module], partial(nn.LayerNorm, eps=1e-6)),
    )
    block.attn.proj_drop = nn.Identity()  # timm's one option drops after the attention too
    for linear in (block.mlp.fc1, block.mlp.fc2):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.normal_(linear.bias, std=1e-6)
    return cast(nn.Module, block)


class HybridEncoder(nn.Module):
    """ResNet, 1x1 patch embedding, learned positions, transformer, last norm."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        self.resnet = _resnet(config)
        self.embed = nn.Conv2d(self.resnet.num_features, config.hidden, kernel_size=1)
        self.positions = nn.Parameter(torch.zeros(1, config.grid**2, config.hidden))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.hidden, eps=1e-6)

    def forward(self, images_BCHW: Tensor) -> Encoded:
        """Encode images of 3 channels."""
        side = images_BCHW.shape[-1]
        stem = self.resnet.stem
        half = stem.norm(stem.conv(images_BCHW))
        x = self.resnet.stages[0](stem.pool(half))
        missing = side // 4 - x.shape[-1]  # 1 where the pool has no padding, else 0
        quarter = F.pad(x, (0, missing, 0, missing)) if missing else x
        eighth = self.resnet.stages[1](x)
        x = self.embed(self.resnet.stages[2](eighth))
        tokens_BND = self.dropout(x.flatten(2).transpose(1, 2) + self.positions)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return Encoded(self.norm(tokens_BND), (eighth, quarter, half))


class ConvNormReLU(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Bilinear doubling, the skip beside it, two convolutions."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(channels_in + channels_skip, channels_out)
        self.conv2 = ConvNormReLU(channels_out, channels_out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Double the side of ``x`` and merge ``skip`` of that side."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        x = self.conv1(x)
        return self.conv2(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """From tokens back to pixels in four doublings; the last has no skip."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        stem = int(STEM_CHANNELS * config.width)
        widths = (config.head_channels, *config.decoder)
        self.conv_more = ConvNormReLU(config.hidden, config.head_channels)
        self.blocks = nn.ModuleList(
            UpBlock(channels_in, channels_skip, channels_out)
            for channels_in, channels_skip, channels_out in zip(
                widths, (8 * stem, 4 * stem, stem, 0), config.decoder, strict=False
            )
        )

    def forward(self, encoded: Encoded) -> Tensor:
        """Decode to (B, last decoder channels, H, W)."""
        tokens_BND, skips = encoded
        grid = skips[0].shape[-1] // 2
        B, _, D = tokens_BND.shape
        x = self.conv_more(tokens_BND.transpose(1, 2).reshape(B, D, grid, grid))
        for block, skip in zip(self.blocks, (*skips, None), strict=True):
            x = block(x, skip)
        return x  # type: ignore[no-any-return]


class TransUNet(nn.Module):
    """P1's segmentation network, and with ``classes=1`` its MIM reconstruction network (3.2.1).

    The state dict falls into ``encoder.`` (ResNet, embedding, transformer: what outlives
    pretraining), ``decoder.`` and ``head.``; only the decoder has BatchNorm.

    Args:
        config: Sizes. Weights are drawn from torch's global generator, as the published network
            draws its own; positions start at zero.
    """

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = HybridEncoder(config)
        self.decoder = Decoder(config)
        self.head = nn.Conv2d(config.decoder[-1], config.classes, kernel_size=3, padding=1)

    def encode(self, images: Tensor) -> Encoded:
        """Tokens and skips.

        Args:
            images: (B, 1, H, W), the grey channel then stands for all three, or (B, 3, H, W);
                H = W = ``config.image_size``, float in [0, 1].

        Returns:
            Tokens (B, N, hidden) after the last norm; skips at 1/8, 1/4, 1/2 of the side.
        """
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.encoder(images)  # type: ignore[no-any-return]

    def feature(self, images: Tensor) -> Tensor:
        """The contrastive branch's feature (P1 3.2.2): mean over the tokens, (B, hidden)."""
        return self.encode(images).tokens_BND.mean(dim=1)

    def decode(self, encoded: Encoded) -> Tensor:
        """The decoder's last map, (B, decoder[-1], H, W)."""
        return self.decoder(encoded)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (or, for MIM, grey values) of shape (B, classes, H, W).

        Args:
            images: As for :meth:`encode`.
        """
        return self.head(self.decode(self.encode(images)))  # type: ignore[no-any-return]


def load_official(model: TransUNet, state_dict: Mapping[str, Tensor]) -> None:
    """Import a state dict of the published TransUNet, every tensor of it.

    Args:
        model: A network of ``geometry="official"`` and the same sizes; filled in place.
        state_dict: Names as published: ``transformer.embeddings.hybrid_model...``,
            ``transformer.encoder.layer.N...``, ``decoder...``, ``segmentation_head.0...``.

    Raises:
        InputError: Names missing, names left over, or shapes that differ; all of them.
    """
    load_strict(model, from_official(state_dict), "published TransUNet state dict")
