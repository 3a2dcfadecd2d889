"""The run folder: what is known after every round, so that a kill loses at most one round.

Every file is written beside its place and moved in, the record last: what the record names exists.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from common.models.branches import State

Traffic = dict[str, dict[str, int]]
"""Bytes by site: {"down": ..., "up": ...}."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write safetensors in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)


def read_tensors(path: Path, order: list[str] | None = None) -> State:
    """Read safetensors; in the given order of names, where one is given."""
    loaded = load_file(path)
    return {name: loaded[name] for name in order or loaded}


@dataclass
class Record:
    """Where a training stands.

    Attributes:
        key: The training.
        round: Rounds done.
        finished: Whether no further round comes.
        names: Order of the tensors.
        best_round: The round whose weights are the result.
        val_losses: Source-validation DiceBCE after each round, where the stage has one.
        note: Why it ended early, if it did.
        remarks: What stood out in its rounds.
        digest: SHA-256 of the result, once finished.
        traffic: Bytes by site so far.
        metrics: The last round's means.
        totals: Sums of the replies' counters over all rounds.
        took_part: Rounds in which each site's reply was taken.
        missed: Rounds that went on without a site's reply.
    """

    key: str
    round: int = 0
    finished: bool = False
    names: list[str] = field(default_factory=list)
    best_round: int = 0
    val_losses: list[float] = field(default_factory=list)
    note: str = ""
    remarks: list[str] = field(default_factory=list)
    digest: str = ""
    traffic: Traffic = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    took_part: dict[str, list[int]] = field(default_factory=dict)
    missed: dict[str, list[int]] = field(default_factory=dict)

    def count(self, site: str, down: int, up: int) -> None:
        """Add a message pair's bytes."""
        at = self.traffic.setdefault(site, {"down": 0, "up": 0})
        at["down"] += down
        at["up"] += up


class Checkpoint:
    """One training's folder below `RUN/state/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _record(self) -> Path:
        return self.folder / "training.json"

    @property
    def replies(self) -> Path:
        """Where an aggregation rule keeps the replies of the round that is under way."""
        return self.folder / "replies"

    def load(self, key: str) -> Record:
        """The record, or an empty one."""
        if not self._record.exists():
            return Record(key)
        return Record(**json.loads(self._record.read_text(encoding="utf-8")))

    def weights(self, record: Record, round_: int) -> State:
        """The weights after a round that is still kept: the last, or the best."""
        return read_tensors(self._weights(round_), record.names)

    def rule_state(self, record: Record) -> State:
        """What the aggregation rule kept, empty if nothing."""
        path = self._rule(record.round)
        return read_tensors(path) if path.exists() else {}

    def result(self, record: Record) -> State:
        """The weights that a finished training hands on."""
        return self.weights(record, record.best_round)

    def result_path(self, record: Record) -> Path:
        """Where these weights lie."""
        return self._weights(record.best_round)

    def save(self, record: Record, weights: State, rule_state: State) -> None:
        """Write a round; the record last, then remove what it no longer names."""
        record.names = list(weights)
        write_tensors(self._weights(record.round), weights)
        if rule_state:
            write_tensors(self._rule(record.round), rule_state)
        self.finish(record)

    def finish(self, record: Record) -> None:
        """Write the record alone, then remove what it no longer names."""
        write_json(self._record, asdict(record))
        kept = {self._record, self._weights(record.round), self._weights(record.best_round)}
        kept.add(self._rule(record.round))
        for path in self.folder.iterdir():
            if path not in kept and path != self.replies:
                path.unlink()

    def _weights(self, round_: int) -> Path:
        return self.folder / f"weights-{round_:05d}.safetensors"

    def _rule(self, round_: int) -> Path:
        return self.folder / f"rule-{round_:05d}.safetensors"


class RunFolder:
    """A run: `study.json`, `metrics.jsonl`, `state/`, `ensemble/`, `results.json`, the report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint(self, key: str) -> Checkpoint:
        """A training's checkpoint."""
        return Checkpoint(self.folder / "state" / key)

    def read_state(self, name: str) -> Any:
        """A small JSON state, or None."""
        path = self.folder / "state" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_state(self, name: str, value: Any) -> None:
        """Write a small JSON state."""
        write_json(self.folder / "state" / f"{name}.json", value)
