"""A network's inference-only twin: weight standardisation and BatchNorm folded into convolutions.

Weights are standardised once instead of at every image, and a BatchNorm in eval mode is a scale
and a shift that the convolution before it can do. The outputs are the same to rounding.
"""

import copy
from itertools import pairwise
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["folded"]


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode without weight standardisation, and without BatchNorm after convolutions.

    Args:
        network: Left as it is. BatchNorm is folded where a `Conv2d` stands directly before it in
            an `nn.Sequential`, which is certain to run in that order; anywhere else it stays.
    """
    twin = copy.deepcopy(network).eval()
    with torch.no_grad():
        _fold(twin)
    return twin.requires_grad_(False)


def _fold(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, (StdConv2d, StdConv2dSame)):
            setattr(module, name, _plain(child))
        else:
            _fold(child)
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        names = list(module._modules)
        for before, after in pairwise(names):
            conv, norm = module._modules[before], module._modules[after]
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                module._modules[before] = fuse_conv_bn_eval(conv, norm)
                module._modules[after] = nn.Identity()


def _plain(conv: StdConv2d | StdConv2dSame) -> nn.Conv2d:
    """The convolution with its standardised weight as plain weight."""
    kind: Any = Conv2dSame if isinstance(conv, StdConv2dSame) else nn.Conv2d
    plain: nn.Conv2d = kind(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride,
        padding=conv.padding, dilation=conv.dilation, groups=conv.groups,
        bias=conv.bias is not None,
    )  # fmt: skip
    plain.weight.copy_(_standardised(conv))
    if conv.bias is not None and plain.bias is not None:
        plain.bias.copy_(conv.bias)
    return plain


def _standardised(conv: StdConv2d | StdConv2dSame) -> Tensor:
    """The weight as timm standardises it in its forward pass."""
    flat = conv.weight.reshape(1, conv.out_channels, -1)
    return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=conv.eps).reshape_as(
        conv.weight
    )
