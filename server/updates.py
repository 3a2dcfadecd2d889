"""A look at every reply before it counts: how far its weights moved, and whether with the others.

A reply that moved absurdly far is refused. One that moved against all the others is named; whether
it may steer is the aggregation rule's business (`server/robust.py`). Nothing of a reply is kept but
a sketch of 4,096 numbers, so that memory does not grow with the number of sites.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.seeds import generator_of
from server.robust import measured

WIDTH = 4096
AGAINST = -0.1
"""Cosine below which an update points away from the others'; a sketch is off by some .016."""
FEWEST = 3
"""Replies that it takes to say who is the odd one."""


@dataclass(frozen=True)
class Update:
    """What one reply did.

    Attributes:
        norm: |weights in - weights out| as a share of |weights out|, over all that training moves:
            running statistics and counters are left out.
        agreement: Cosine between this site's update and the sum of the others', each of length 1;
            None where there is no other.
    """

    norm: float
    agreement: float | None = None


class Updates:
    """The replies of one round.

    Args:
        start: The round's outgoing weights.
        bound: Largest `norm` that is taken.
        seed: Of the sketch's signs.
    """

    def __init__(self, start: Mapping[str, Tensor], bound: float, seed: int) -> None:
        self.start = start
        self.bound = bound
        self.seed = seed
        self.names = list(measured(start))
        self.length = math.sqrt(sum(_square(start[name]) for name in self.names))
        self.norms: dict[str, float] = {}
        self.sketches: dict[str, Tensor] = {}

    def refuse(self, site: str, weights: Mapping[str, Tensor]) -> str:
        """Look at a reply.

        Args:
            site: Whose it is.
            weights: Its tensors, of the names and shapes of `start`.

        Returns:
            Why it is refused; empty where it is taken.
        """
        signs = generator_of(self.seed)
        sketch = torch.zeros(WIDTH)
        total = 0.0
        for name in self.names:
            step = weights[name].float() - self.start[name].float()
            total += _square(step)
            sketch += _sketch(step, signs)
        norm = math.sqrt(total) / max(self.length, 1e-12)
        if norm > self.bound:
            return (
                f"its weights moved {norm:.3g} times their own length, more than "
                f"federation.update_bound = {self.bound:g}"
            )
        self.norms[site], self.sketches[site] = norm, sketch
        return ""

    def found(self) -> dict[str, Update]:
        """Each reply that was taken, among the others."""
        units = {site: F.normalize(sketch, dim=0) for site, sketch in self.sketches.items()}
        together = torch.stack([*units.values(), torch.zeros(WIDTH)]).sum(dim=0)
        return {
            site: Update(
                norm,
                float(F.cosine_similarity(units[site], together - units[site], dim=0))
                if len(units) > 1
                else None,
            )
            for site, norm in self.norms.items()
        }


def against(found: Mapping[str, Update]) -> dict[str, float]:
    """Sites whose update points away from the others', with its cosine."""
    if len(found) < FEWEST:
        return {}
    return {
        site: update.agreement
        for site, update in found.items()
        if update.agreement is not None and update.agreement < AGAINST
    }


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum()) if tensor.numel() else 0.0


def _sketch(step: Tensor, signs: torch.Generator) -> Tensor:
    """(WIDTH,) sum of a tensor's rows of WIDTH numbers, each row and each place with a random sign.

    Inner products of two sketches are those of the tensors, in expectation.
    """
    flat = F.pad(step.flatten(), (0, -step.numel() % WIDTH))
    rows = flat.reshape(-1, WIDTH)
    return (_signs(len(rows), signs) @ rows) * _signs(WIDTH, signs)


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1
