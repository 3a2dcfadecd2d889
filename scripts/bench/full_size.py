"""A state as large as the published network's, and replies that differ, made quickly."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.models.branches import shared_state
from common.models.transunet import PresetName, TransUNet, TransUNetConfig
from common.wire.vocabulary import TensorSpec

NOISE = 2**20


def full_size(preset: PresetName) -> tuple[TensorSpec, ...]:
    """The tensors that cross for a TransUNet; "r50-vit-b16" has 105 M numbers."""
    with torch.device("meta"):
        network = TransUNet(TransUNetConfig.preset(preset))
    return tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in shared_state(network).items()
    )


def numbers(specs: Sequence[TensorSpec]) -> int:
    """How many numbers the tensors hold."""
    return sum(math.prod(spec.shape) for spec in specs)


def reply(specs: Sequence[TensorSpec], index: int, seed: int) -> "OrderedDict[str, Tensor]":
    """Site `index`'s weights: one noise, repeated over the tensors and scaled by site."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed))
    noise *= 0.02 * (1 + 0.1 * index)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for spec in specs:
        count = math.prod(spec.shape)
        state[spec.name] = noise.repeat(-(-count // NOISE))[:count].reshape(spec.shape).clone()
    return state


def sample(arrays: Sequence[NDArray[np.float32]], every: int = 997) -> NDArray[np.float32]:
    """Every so many-th number of each array, so that two processes can be compared."""
    return np.concatenate([np.ravel(array)[::every] for array in arrays])


def largest_difference(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Largest difference over the largest number of the reference."""
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
