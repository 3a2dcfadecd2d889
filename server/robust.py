"""Aggregation that a minority of bad replies cannot steer: median, trimmed mean, Krum.

These rules need all replies of a round at once. The replies wait on disk, in the training's own
folder, and are put together tensor by tensor: memory grows by one tensor a site, not by one model.
They are gone when the round is. No reply weighs more than another.

Shape legend: N replies, P numbers of one tensor.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.models.branches import State
from server.context import StudyStopped


class StoredReplies:
    """A rule that looks at all replies of a round together.

    Args:
        start: The round's outgoing weights.
        folder: For the replies, until the round has its result; what a killed round left is
            removed.
    """

    def __init__(self, start: Mapping[str, Tensor], folder: Path) -> None:
        self.start = start
        self.folder = folder
        self.state: State = {}
        self.refused = 0
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._clear()

    def add(self, weights: Mapping[str, Tensor], weight: float) -> None:
        """Keep one reply on disk; its weight is not looked at."""
        file = self._file(self.count)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
        self.count += 1

    def result(self) -> State:
        """The new weights; the replies are removed."""
        with ExitStack() as stack:
            files = [
                stack.enter_context(safe_open(self._file(place), "pt"))
                for place in range(self.count)
            ]
            new = self.combine(files)
        self._clear()
        return new

    def combine(self, files: list[Any]) -> State:
        """The new weights out of the round's open files."""
        return OrderedDict((name, self.tensor(name, files)) for name in self.start)

    def tensor(self, name: str, files: list[Any]) -> Tensor:
        """One tensor of the result; counters are start plus the median of what sites counted."""
        sent = self.start[name]
        replies_NP = torch.stack([file.get_tensor(name) for file in files])
        if not sent.is_floating_point():
            return sent + (replies_NP - sent).median(dim=0).values
        return self.reduce(replies_NP.float()).to(sent.dtype)

    def reduce(self, replies_NP: Tensor) -> Tensor:
        """(N, ...) to (...)."""
        raise NotImplementedError

    def _file(self, place: int) -> Path:
        return self.folder / f"{place:05d}.safetensors"

    def _clear(self) -> None:
        for path in self.folder.glob("*.safetensors"):
            path.unlink()


class Median(StoredReplies):
    """Coordinate-wise median (Yin et al. 2018); of an even number the mean of the middle two."""

    def reduce(self, replies_NP: Tensor) -> Tensor:
        """(N, ...) to (...)."""
        return trimmed_mean(replies_NP, (len(replies_NP) - 1) // 2)


class TrimmedMean(StoredReplies):
    """Coordinate-wise mean without the smallest and the largest (Yin et al. 2018).

    Args:
        start: The round's outgoing weights.
        folder: For the replies.
        share: Cut at either end, rounded up, but never so much that nothing is left: of three
            replies one remains.
    """

    def __init__(self, start: Mapping[str, Tensor], folder: Path, share: float) -> None:
        super().__init__(start, folder)
        self.share = share

    def reduce(self, replies_NP: Tensor) -> Tensor:
        """(N, ...) to (...)."""
        replies = len(replies_NP)
        cut = min(math.ceil(self.share * replies), (replies - 1) // 2)
        return trimmed_mean(replies_NP, cut)


class Krum(StoredReplies):
    """The one reply that lies nearest to its neighbours (Blanchard et al. 2017).

    Args:
        start: The round's outgoing weights.
        folder: For the replies.
        byzantine: f: how many replies may be bad. Each that was refused as such is one of them, and
            is out already: with r refused, f - r (at least 0) may still be among those that are
            left, and of these 2 (f - r) + 3 are needed. A site that gave no reply is none of them.
            A training of one site has nothing to choose from: its reply passes.
    """

    def __init__(self, start: Mapping[str, Tensor], folder: Path, byzantine: int) -> None:
        super().__init__(start, folder)
        self.byzantine = byzantine

    @property
    def hidden(self) -> int:
        """Bad replies that may be among those that were taken."""
        return max(0, self.byzantine - self.refused)

    def combine(self, files: list[Any]) -> State:
        """The chosen reply as it came.

        Raises:
            StudyStopped: If there are more replies than one, but fewer than Krum needs.
        """
        chosen = 0 if self.count == 1 else self._choose(files)
        return OrderedDict((name, files[chosen].get_tensor(name)) for name in self.start)

    def _choose(self, files: list[Any]) -> int:
        if self.count < least_for_krum(self.hidden):
            bad = f", {self.refused} of them refused as bad," if self.refused else ""
            raise StudyStopped(
                f"federation.aggregation: krum with byzantine = {self.byzantine}{bad} needs "
                f"{least_for_krum(self.hidden)} replies, and {self.count} came"
            )
        distances_NN = torch.zeros(self.count, self.count, dtype=torch.float64)
        for name in measured(self.start):
            replies_NP = torch.stack([file.get_tensor(name).double().flatten() for file in files])
            for one, own_P in enumerate(replies_NP):
                distances_NN[one] += (replies_NP - own_P).square().sum(dim=1)
        # Itself is at distance 0, and N - f - 2 neighbours count beside it.
        nearest = distances_NN.sort(dim=1).values[:, 1 : self.count - self.hidden - 1]
        return int(nearest.sum(dim=1).argmin())


def least_for_krum(byzantine: int) -> int:
    """Replies that Krum needs to withstand that many bad ones."""
    return 2 * byzantine + 3


def trimmed_mean(replies_NP: Tensor, cut: int) -> Tensor:
    """(N, ...) to (...): the mean without the `cut` smallest and largest of each number."""
    ordered = replies_NP.sort(dim=0).values
    return ordered[cut : len(ordered) - cut].mean(dim=0)


def measured(start: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of the tensors that training moves: no counters, no running statistics."""
    for name, tensor in start.items():
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var")):
            yield name
