"""Sites that are only played: a function answers each message, with no data and no training."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message, RecordDict

from common.config.study import Study
from common.models.branches import State
from common.plan import Training, make_plan
from common.wire.records import pack
from common.wire.vocabulary import training_metrics, training_tensors
from scripts.engines.inprocess import InProcessGrid
from server.app import GridExchange
from server.checkpoint import RunFolder
from server.context import ServerContext

Play = Callable[[str, Message], Message | None]


class PlayedGrid(InProcessGrid):
    """Asks `play(site, message)` as soon as a message is pushed; replies wait until pulled.

    Args:
        sites: Names.
        play: Gives the reply, or None for a site that never answers.
        late: Sites whose reply comes only when it is pulled for the second time.
    """

    def __init__(self, sites: Iterable[str], play: Play, late: Sequence[str] = ()) -> None:
        super().__init__(sites)
        self.play = play
        self.late = set(late)
        self.replies: dict[str, Message] = {}
        self.pulled: list[str] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = list(super().push_messages(messages))
        for message_id in ids:
            message = self.waiting.pop(message_id)
            reply = self.play(self.sites[message.metadata.dst_node_id], message)
            if reply is not None:
                self.replies[message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in message_ids:
            if message_id not in self.replies:
                continue
            site = self.sites[self.replies[message_id].metadata.src_node_id]
            if site in self.late:
                self.late.remove(site)
                continue
            self.pulled.append(site)
            yield self.replies.pop(message_id)


class Events:
    """A tracker that only remembers."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.seen.append({"event": event, **fields})

    def close(self) -> None:
        pass

    def named(self, event: str) -> list[dict[str, Any]]:
        return [seen for seen in self.seen if seen["event"] == event]


def server_of(study: Study, run: Path, grid: PlayedGrid) -> tuple[ServerContext, Events]:
    """A server whose sites are played; they are enrolled already."""
    events = Events()
    exchange = GridExchange(grid, study, study.compute.jobs)
    exchange.nodes = {site: node for node, site in grid.sites.items()}
    return ServerContext(study, make_plan(study), RunFolder(run), exchange, events), events


def weights_for(study: Study, training: Training, value: float) -> State:
    """Every float of a training's tensors at one value, every counter at 7."""
    return OrderedDict(
        (spec.name, torch.full(spec.shape, value if spec.is_float else 7,
                               dtype=getattr(torch, spec.dtype)))
        for spec in training_tensors(study, training)
    )  # fmt: skip


def metrics_for(training: Training, **changes: float | int) -> dict[str, float | int]:
    """The scalars of an honest reply."""
    specs = training_metrics(training)
    honest = {name: 4 if spec.kind == "count" else 0.5 for name, spec in specs.items()}
    return {**honest, **changes}


def honest_content(
    study: Study, training: Training, value: float, **changes: float | int
) -> RecordDict:
    """What an honest site's reply holds: its weights at one value, and its scalars."""
    return pack(
        weights=weights_for(study, training, value),
        specs=training_tensors(study, training),
        wire_dtype=study.wire.dtype,
        metrics=metrics_for(training, **changes),
    )
