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
from clients.gate.policy import Policy
from common.errors import InputError
from scripts.gate.check import honest_metrics, least_allowed

KINDS = ("float32", "float16", "uint16", "int64", "bool")
ROOM = 4096
"""Floats that a tensor needs to hold a canary."""


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
        return split_name(self.name)[0].partition(".")[2]

    @property
    def bytes(self) -> int:
        """Of an answer's tensors, roughly."""
        return sum(4 * int(np.prod(tensor.shape)) for tensor in self.exchange.up)


def subject_of(policy: Policy, study: Mapping[str, Any] | None = None) -> Subject:
    """The smallest message with weights that a policy lets out.

    Args:
        policy: The site's.
        study: The study, where it is known; else a study that is nothing but its name.

    Raises:
        InputError: If the policy knows no such message.
    """
    found: list[tuple[int, str, str, Exchange]] = []
    for name, manifest in policy.manifests.items():
        if study is not None and study.get("name") != name:
            continue
        for key, exchange in manifest.exchanges.items():
            stage = split_name(key)[0].partition(".")[2]
            sizes = [int(np.prod(t.shape)) for t in exchange.up if t.dtype == "float32"]
            known = all(tensor.dtype in KINDS for tensor in exchange.up)
            roomy = known and exchange.down == exchange.up and max(sizes, default=0) >= ROOM
            if stage in policy.file.stages and roomy and exchange.metrics:
                found.append((sum(sizes), name, key, exchange))
    if not found:
        raise InputError(
            f"the policy of {policy.file.site} lets no message with weights out, so there is "
            "nothing to try; add a study to its [studies] (sonofed gate policy manifest)"
        )
    _, name, key, exchange = min(found, key=lambda each: each[:3])
    stage = split_name(key)[0].partition(".")[2]
    return Subject(
        dict(study or {"name": name}), key, exchange, honest_metrics(exchange, policy, stage)
    )


def shortened(
    policy_file: Path, policy: Policy, subject: Subject, folder: Path, tensors: int = 6
) -> Path:
    """The same policy, but of the study one message with few tensors: a trick takes a second then.

    Args:
        policy_file: The policy.
        policy: The same, read.
        subject: The message.
        folder: Where policy and manifests go.
        tensors: How many of the message's are kept, the largest among them.
    """
    largest = max(subject.exchange.up, key=lambda tensor: int(np.prod(tensor.shape)))
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
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def instruction(subject: Subject, policy: Policy, number: int, **changes: Any) -> Message:
    """An instruction as the centre writes them."""
    message, training, step = split_name(subject.name)
    text = json.dumps(subject.study, sort_keys=True, separators=(",", ":"))
    record = {
        "study": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
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
    if tensor.dtype in ("float32", "float16"):
        return Array((rng.standard_normal(tensor.shape) * 0.05).astype(tensor.dtype))
    if tensor.dtype == "uint16":
        return Array(np.full(tensor.shape, 0x3D00, np.uint16))
    least = int(least_allowed(tensor.name, list(policy.file.integers.items()), 0.0))
    return Array(np.full(tensor.shape, least, tensor.dtype))
