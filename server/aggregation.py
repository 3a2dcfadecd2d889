"""Aggregation: one reply at a time into a running mean, in a fixed order of sites.

A rule is an object with `add(weights, weight)` and `result()`, made anew for every round. The rules
here never hold more than one reply beside their own running state; those that need all replies at
once (`server/robust.py`) keep them on disk. Name your own in `federation.aggregation`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from common.config.stages import Federation
from common.models.branches import State
from common.plugins import load_plugin
from server.context import StudyStopped
from server.robust import Krum, Median, TrimmedMean


class Rule(Protocol):
    """What an aggregation rule is.

    A rule may keep tensors between rounds in `state`; they are saved with the checkpoint.

    Attributes:
        state: These.
        refused: Replies of the round that were refused as bad, and so are not added; counted up by
            the round, for rules that reckon with so many bad ones. Somebody's own needs none.
    """

    state: State
    refused: int

    def add(self, weights: Mapping[str, Tensor], weight: float) -> None:
        """Take one site's reply into account. The tensors may be used, not kept."""

    def result(self) -> State:
        """The new weights."""


class RunningMean:
    """Weighted mean in float32: m <- m + (x - m) w / W, so that a single reply passes unchanged.

    Integer tensors are counters: what each site counted on top of `start` is added up, exactly.

    Args:
        start: The round's outgoing weights.
        state: From the round before; the mean keeps none.
    """

    def __init__(self, start: Mapping[str, Tensor], state: State) -> None:
        self.start = start
        self.state: State = state
        self.refused = 0
        self.mean: State = OrderedDict()
        self.total = 0.0

    def add(self, weights: Mapping[str, Tensor], weight: float) -> None:
        """Take one reply into the mean.

        Args:
            weights: Named tensors.
            weight: > 0, e.g. the site's training images.
        """
        self.total += weight
        for name, tensor in weights.items():
            if name not in self.mean:
                self.mean[name] = tensor.clone()
            elif tensor.is_floating_point():
                mean = self.mean[name]  # in place: a difference would be one more payload to write
                mean.lerp_(tensor.to(mean.dtype), weight / self.total)
            else:
                self.mean[name] = self.mean[name] + (tensor - self.start[name])

    def result(self) -> State:
        """The mean of what was added."""
        return self.mean


class FedAdam(RunningMean):
    """FedAdam (Reddi et al. 2021): Adam at the server on the mean's step away from `start`.

    Args:
        start: The round's outgoing weights.
        state: First and second moments, empty before the first round.
        federation: `server_learning_rate`, `beta_1`, `beta_2`, `tau`.
    """

    def __init__(self, start: Mapping[str, Tensor], state: State, federation: Federation) -> None:
        super().__init__(start, dict(state))
        self.federation = federation

    def result(self) -> State:
        """Give start + eta m / (sqrt(v) + tau); running statistics and counters stay means."""
        options = self.federation
        new: State = OrderedDict()
        for name, mean in self.mean.items():
            if not mean.is_floating_point() or name.endswith(("running_mean", "running_var")):
                new[name] = mean
                continue
            step = mean - self.start[name]
            zero = torch.zeros_like(step)
            first = self.state.get(f"first.{name}", zero) * options.beta_1
            first = first + (1 - options.beta_1) * step
            second = self.state.get(f"second.{name}", zero) * options.beta_2
            second = second + (1 - options.beta_2) * step * step
            self.state[f"first.{name}"], self.state[f"second.{name}"] = first, second
            change = options.server_learning_rate * first / (second.sqrt() + options.tau)
            new[name] = self.start[name] + change
        return new


class OwnRule:
    """Somebody's own rule; its result is checked before it is kept or goes out.

    Args:
        name: `package.module:name`.
        start: The round's outgoing weights.
        state: What the rule kept in the round before, empty before the first.
    """

    def __init__(self, name: str, start: Mapping[str, Tensor], state: State) -> None:
        self.name, self.start = name, start
        self.rule: Rule = load_plugin(name, "federation.aggregation")(start, state)
        self.state: State = state
        self.refused = 0

    def add(self, weights: Mapping[str, Tensor], weight: float) -> None:
        """Hand one site's reply on."""
        self.rule.add(weights, weight)

    def result(self) -> State:
        """The rule's weights, in the order of the weights that went out.

        Raises:
            StudyStopped: Naming a tensor that is missing, unknown, malformed or not finite.
        """
        new = self.rule.result()
        self.state = self.rule.state
        what = f"federation.aggregation: {self.name!r}"
        for name in [*new, *self.start]:
            if name not in self.start or name not in new:
                known = "is unknown" if name not in self.start else "is missing"
                raise StudyStopped(f"{what}: {name} {known} in its result")
        for name, tensor in self.start.items():
            if new[name].shape != tensor.shape or new[name].dtype != tensor.dtype:
                raise StudyStopped(
                    f"{what}: {name} is {new[name].dtype} {tuple(new[name].shape)} in its result, "
                    f"not {tensor.dtype} {tuple(tensor.shape)}"
                )
            if not bool(torch.isfinite(new[name]).all()):
                raise StudyStopped(f"{what}: {name} holds NaN or infinity in its result")
        return OrderedDict((name, new[name]) for name in self.start)


def make_rule(
    federation: Federation, start: Mapping[str, Tensor], state: State, folder: Path
) -> Rule:
    """The study's rule for one round.

    fedprox is the plain mean here: its proximal term acts at the sites.

    Args:
        federation: Names the rule.
        start: The round's outgoing weights.
        state: What the rule kept in the round before, empty before the first.
        folder: For replies that have to wait for one another.
    """
    match federation.aggregation:
        case "mean" | "fedprox":
            return RunningMean(start, state)
        case "fedadam":
            return FedAdam(start, state, federation)
        case "median":
            return Median(start, folder)
        case "trimmed":
            return TrimmedMean(start, folder, federation.trim)
        case "krum":
            return Krum(start, folder, federation.byzantine)
        case own:
            return OwnRule(own, start, state)
