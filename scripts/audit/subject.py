"""The message that tricks are played on: one that a site's policy lets in, and its answer out."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict

from clients.exchanges import split_name
from clients.gate.manifest import Exchange, Manifest, Tensor, digest, dump
from clients.gate.policy import Policy, study_problems
from common.errors import InputError
from scripts.audit.floats import FLOATS, packed
from scripts.audit.invented import invented
from scripts.gate.check import honest_metrics, least_allowed

KINDS = (*FLOATS, "int64", "bool")
ROOM = 4096
"""Floats that a tensor needs to hold a canary."""
FEW = 6
"""Tensors of a message that is shortened."""


@dataclass(frozen=True)
class Subject:
    """A message that the policy lets a site answer.

    Attributes:
        study: What the instruction says the study is.
        name: The exchange's.
        exchange: What it carries.
        metrics: Scalars of an honest answer.
    """

    study: Mapping[str, Any]
    name: str
    exchange: Exchange
    metrics: dict[str, float | int]

    @property
    def stage(self) -> str:
        """The stage."""
        return _stage(self.name)

    @property
    def bytes(self) -> int:
        """Of an answer's tensors, without their headers."""
        return sum(_values(tensor) * np.dtype(tensor.dtype).itemsize for tensor in self.exchange.up)

    @property
    def text(self) -> str:
        """The study as it crosses."""
        return json.dumps(self.study, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of that."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def subject_of(policy: Policy, study: Mapping[str, Any] | None = None) -> Subject:
    """The smallest message with weights that a policy lets out.

    Args:
        policy: The site's.
        study: The study, where it is known; else one is made of the policy's own rules.

    Raises:
        InputError: If the policy knows no such message, or none that can be tried.
    """
    found: list[tuple[int, str, str, Exchange]] = []
    others: list[str] = []
    for name, manifest in policy.manifests.items():
        if study is not None and study.get("name") != name:
            continue
        for key, exchange in manifest.exchanges.items():
            floats = [_values(tensor) for tensor in exchange.up if tensor.dtype in FLOATS]
            if _stage(key) not in policy.file.stages or not floats:
                continue
            if words := _unfit(exchange, max(floats)):
                others.append(f"{name}, {key}: {words}")
            else:
                found.append((sum(floats), name, key, exchange))
    if not found:
        raise InputError(_nothing(policy.file.site, others))
    _, name, key, exchange = min(found, key=lambda each: each[:3])
    stage = _stage(key)
    told = dict(study or invented(policy.file.study, name, stage))
    if problems := list(study_problems(policy.file.study, told)):
        raise InputError(
            f"the policy of {policy.file.site}: no study that could be tried fits its [study]: "
            f"{problems[0]}"
        )
    return Subject(told, key, exchange, honest_metrics(exchange, policy, stage))


def _unfit(exchange: Exchange, largest: int) -> str:
    """Why no trick can be played on a message; empty where all can."""
    if unknown := sorted({t.dtype for t in exchange.up} - set(KINDS)):
        return f"{unknown[0]} is no dtype that the tricks know"
    if exchange.down != exchange.up:
        return "other tensors go out than come in"
    if largest < ROOM:
        return f"no tensor has {ROOM:,} numbers"
    return "" if exchange.metrics else "no scalar goes out"


def _nothing(site: str, others: list[str]) -> str:
    if others:
        rest = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        return (
            f"the policy of {site} lets messages with weights out, but none that the tricks can be "
            f"played on: {others[0]}{rest}"
        )
    return (
        f"the policy of {site} lets no message with weights out, so there is nothing to try; add a "
        "study to its [studies] (sonofed gate policy manifest)"
    )


def _stage(exchange: str) -> str:
    return split_name(exchange)[0].partition(".")[2]


def _values(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


def shortened(
    policy_file: Path, policy: Policy, subject: Subject, folder: Path, tensors: int = FEW
) -> Path:
    """The same policy, but of the study one message with few tensors: a trick takes a second then.

    Where the policy names the digest of the study that may run, it names the subject's instead.

    Args:
        policy_file: The policy.
        policy: The same, read.
        subject: The message.
        folder: Where policy and manifests go.
        tensors: How many of the message's are kept, the largest of weights among them.
    """
    floats = [tensor for tensor in subject.exchange.up if tensor.dtype in FLOATS]
    largest = max(floats, key=_values)
    others = [tensor for tensor in subject.exchange.up if tensor is not largest]
    kept = {id(tensor) for tensor in (*others[: tensors - 1], largest)}
    few = tuple(tensor for tensor in subject.exchange.up if id(tensor) in kept)
    exchange = subject.exchange.model_copy(update={"down": few, "up": few})
    short = Manifest(exchanges={subject.name: exchange})
    folder.mkdir(parents=True, exist_ok=True)
    text = policy_file.read_text(encoding="utf-8")
    for number, (name, entry) in enumerate(policy.file.studies.items()):
        found = short if name == subject.study["name"] else policy.manifests[name]
        place = f"{number}.manifest.json"
        (folder / place).write_text(dump(found), encoding="utf-8")
        # Each stands in the file as it was read; a digest stands there once.
        text = text.replace(entry.sha256, digest(found)).replace(entry.manifest, place)
        if found is short and entry.digest is not None:
            text = text.replace(entry.digest, subject.digest)
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def instruction(subject: Subject, policy: Policy, number: int, **changes: Any) -> Message:
    """An instruction as the centre writes them."""
    message, training, step = split_name(subject.name)
    record = {
        "study": subject.text,
        "sha256": subject.digest,
        "stage": subject.stage,
        "training": training,
        "round": 1,
        "seed": number,
        "step": step,
        **changes,
    }
    arrays = {t.name: _array(t, policy) for t in subject.exchange.down}
    content = RecordDict({"instruction": ConfigRecord(record), "weights": ArrayRecord(arrays)})
    metadata = Metadata(
        run_id=1, message_id="", src_node_id=1, dst_node_id=1, reply_to_message_id="",
        group_id=f"audit/{number}", created_at=time.time(), ttl=3600.0,
        message_type=f"{message.partition('.')[0]}.{record['stage']}",
    )  # fmt: skip
    made: Message = Message(content, metadata=metadata)  # type: ignore[call-overload]
    return made


def _array(tensor: Tensor, policy: Policy) -> Array:
    rng = np.random.default_rng(len(tensor.name))
    if tensor.dtype in FLOATS:
        return packed(rng.standard_normal(tensor.shape) * 0.05, tensor.dtype)
    least = int(least_allowed(tensor.name, list(policy.file.integers.items()), 0.0))
    return Array(np.full(tensor.shape, least, tensor.dtype))
