"""An honest instruction and its reply, small enough to be spoilt in every way."""

import dataclasses
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from clients.gate.manifest import Exchange, Manifest, Metric, Tensor
from clients.gate.objects import object_id, open_held
from clients.gate.policy import Policy
from clients.gate.rules import Bundles, PolicyFile, Rule, StageRules, StudyEntry
from clients.gate.tensors import refused

STUDY: dict[str, Any] = {
    "mim": {"epochs": 3, "ratio": 0.6},
    "name": "wrist",
    "sites": {"north": {"role": "source"}, "west": {"role": "target"}},
}
TENSORS = (
    Tensor(name="conv.weight", dtype="float32", shape=(2, 3)),
    Tensor(name="norm.running_mean", dtype="float32", shape=(3,)),
    Tensor(name="half", dtype="uint16", shape=(4,)),
    Tensor(name="scale", dtype="float16", shape=()),
    Tensor(name="histogram", dtype="int64", shape=(4,)),
)
METRICS = {
    "loss": Metric(kind="number", low=-100, high=100),
    "patients": Metric(kind="count", low=1, high=1e9),
}
MANIFEST = Manifest(
    exchanges={"train.mim mim/mim": Exchange(down=TENSORS, up=TENSORS, metrics=METRICS)}
)
NUMBERS: dict[str, Any] = {"loss": 0.5, "patients": 12}


def arrays(shift: float = 0.0) -> "OrderedDict[str, Array]":
    """The tensors as they travel."""
    half = np.full(4, 1.5 + shift, np.float32).view(np.uint32) >> 16
    return OrderedDict(
        [
            ("conv.weight", Array(np.arange(6, dtype=np.float32).reshape(2, 3) + shift)),
            ("norm.running_mean", Array(np.ones(3, np.float32) + shift)),
            ("half", Array(half.astype(np.uint16))),
            ("scale", Array(np.array(2.0, np.float16))),
            ("histogram", Array(np.array([3, 0, 7, 5], np.int64))),
        ]
    )


def instruction(told: dict[str, Any] | None = None, /, **changes: Any) -> Message:
    """What the server asks."""
    text = json.dumps(told or STUDY, sort_keys=True, separators=(",", ":"))
    record = {
        "study": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "stage": "mim",
        "training": "mim/mim",
        "round": 2,
        "seed": 7,
        "step": "",
        **changes,
    }
    content = RecordDict({"instruction": ConfigRecord(record), "weights": ArrayRecord(arrays())})
    metadata = Metadata(
        run_id=1, message_id="17", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id="mim/mim/2", created_at=time.time(), ttl=600.0, message_type="train.mim",
    )  # fmt: skip
    message: Message = Message(metadata=metadata, content=content)  # type: ignore[call-overload]
    return message


def reply_to(
    asked: Message,
    weights: "OrderedDict[str, Array] | dict[str, Array] | None" = None,
    metrics: dict[str, Any] | None = None,
) -> Message:
    """An honest answer, or another."""
    content = RecordDict(
        {
            "weights": ArrayRecord(arrays(0.01) if weights is None else weights),
            "metrics": MetricRecord(NUMBERS if metrics is None else metrics),
        }
    )
    return Message(content, reply_to=asked)


def policy(manifest: Manifest = MANIFEST, **changes: Any) -> Policy:
    """A policy that the honest reply passes; `changes` replace whole tables."""
    tables: dict[str, Any] = {
        "site": "west",
        "studies": {"wrist": StudyEntry(manifest="wrist.json", sha256="0" * 64)},
        "stages": {"mim": StageRules(update_norm=1.0)},
        "metrics": {
            "loss": Rule(kind="number", low=-10, high=10),
            "patients": Rule(kind="count", low=0, high=1000),
        },
        "study": {
            "name": Rule(),
            "sites.*": Rule(),
            "mim.*": Rule(),
            "mim.epochs": Rule(kind="count", low=1, high=10),
        },
        "integers": {"histogram": Rule(kind="count", low=0, high=1000)},
        "bundles": Bundles(any=True),
        **changes,
    }
    return Policy(PolicyFile(**tables), {"wrist": manifest})


def with_exchange(**changes: Any) -> Manifest:
    """The manifest, its one exchange changed."""
    (name,) = MANIFEST.exchanges
    return Manifest(exchanges={name: MANIFEST.exchanges[name].model_copy(update=changes)})


def replaced(facts: Any, **changes: Any) -> Any:
    """Frozen facts with other values."""
    return dataclasses.replace(facts, **changes)


class Pile(dict[str, bytes]):
    """Objects in memory, by id."""

    def get(self, name: str) -> bytes:  # type: ignore[override]
        if name not in self:
            raise FileNotFoundError(name)
        return self[name]


def objects_of(message: Message) -> dict[str, bytes]:
    """All objects of a message as Flower writes them, children first."""
    return {name: found.deflate() for name, found in get_all_nested_objects(message).items()}


def message_from_objects(root: str, objects: Mapping[str, bytes]) -> Message:
    """The message in a set of objects, as the gate reads them, its tensors put together."""
    if any(object_id(found) != name for name, found in objects.items()):
        raise refused("an object is not what its id says")
    pile = Pile(objects)
    held = open_held(root, pile, objects)
    if held.message.has_error():
        return held.message
    content = RecordDict()
    for name in held.kinds:
        if name in held.arrays:
            content[name] = ArrayRecord(
                {
                    key: Array(
                        dtype=array.told.dtype,
                        shape=array.told.shape,
                        stype=array.told.stype,
                        data=b"".join(array.pieces(pile)),
                    )
                    for key, array in held.arrays[name].items()
                }
            )
        else:
            content[name] = held.message.content[name]
    held.message.content = content
    return held.message
