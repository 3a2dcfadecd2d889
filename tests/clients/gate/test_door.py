"""Every trick that was tried on a gate, over its real door: none leaves, each is told by a code."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from clients.gate.rules import Limits
from common.wire import gate as codes
from server.receipts import Receipts, take_letter
from tests.clients.gate.center import NODE, Center, Keys
from tests.clients.gate.here import Here, gate_here
from tests.clients.gate.supernode import Liar
from tests.clients.gate.test_payload import (
    METRIC_TRICKS,
    OBJECT_TRICKS,
    TENSOR_TRICKS,
    body_replaced,
    of_type,
    renamed,
)
from tests.clients.gate.world import arrays, instruction, objects_of, policy, reply_to


@dataclass
class World:
    """One gate for all tricks: a refusal must not hurt the next exchange."""

    center: Center
    here: Here
    liar: Liar

    def ask(self) -> tuple[str, Message]:
        """A new instruction, as it was handed down."""
        with self.center.lock:
            self.center.calls.clear()
        asked = self.center.ask(instruction())
        return asked, self.liar.pull()

    def refused(self, asked: str, response: Any, code: int = codes.REFUSED_CONTENT) -> None:
        """The door said no, the center learned a code and a line, and nothing else left."""
        line = self.here.events[-1]
        assert line | {"kind": "refused", "way": "out", "code": code} == line
        number = len(self.here.events) - 1
        assert response is not None
        assert response.status_code == 422
        assert response.reason_phrase == f"refused: ledger line {number}"
        left = self.center.answer(asked)
        assert (left.error.code, left.error.reason) == (code, f"ledger line {number}")
        pushed = [body for route, _, body in self.center.calls if route == "push-object"]
        assert len(pushed) == 1
        assert not any(b"Jane" in body for _, _, body in self.center.calls)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[World]:
    with (
        Center(keys) as center,
        gate_here(tmp_path_factory.mktemp("world") / "gate", center) as here,
    ):
        yield World(center, here, Liar(here.address))


def tree_of(objects: dict[str, bytes]) -> ObjectTree:
    """The tree of any objects, honest or not, as their heads name their children."""

    def node(name: str) -> ObjectTree:
        head = objects[name].split(b"\x00")[0].split(b" ")
        children = head[1].decode().split(",") if len(head) > 1 and head[1] else []
        return ObjectTree(object_id=name, children=[node(c) for c in children if c in objects])

    return node(list(objects)[-1])


def test_an_honest_reply_by_hand_passes(world: World) -> None:
    """So that what is refused below is refused for its trick."""
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    assert world.liar.push(message, objects, tree_of(objects)) is None
    assert world.center.answer(asked).has_content()


@pytest.mark.parametrize("trick", TENSOR_TRICKS.values(), ids=list(TENSOR_TRICKS))
def test_no_trick_with_tensors(
    world: World, trick: Callable[[dict[str, Array]], dict[str, Array]]
) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message, trick(dict(arrays(0.01)))))
    response = world.liar.push(message, objects, tree_of(objects))
    code = world.here.events[-1]["code"]
    assert code in (codes.REFUSED_CONTENT, codes.REFUSED_UPDATE)
    world.refused(asked, response, int(str(code)))


@pytest.mark.parametrize("metrics", METRIC_TRICKS.values(), ids=list(METRIC_TRICKS))
def test_no_trick_with_metrics(world: World, metrics: dict[str, Any]) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message, None, metrics))
    response = world.liar.push(message, objects, tree_of(objects))
    few = metrics.get("patients") == 4
    world.refused(asked, response, codes.REFUSED_COHORT if few else codes.REFUSED_CONTENT)


@pytest.mark.parametrize(("kind", "change"), OBJECT_TRICKS.values(), ids=list(OBJECT_TRICKS))
def test_no_trick_with_objects(world: World, kind: str, change: Callable[[bytes], bytes]) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    old = of_type(objects, kind)
    _, spoilt = renamed(objects, old, body_replaced(objects[old], change))
    world.refused(asked, world.liar.push(message, spoilt, tree_of(spoilt)))


@pytest.mark.parametrize(
    "record", [ConfigRecord({"note": "Jane"}), MetricRecord({"n": 1}), ArrayRecord([np.zeros(3)])]
)
@pytest.mark.parametrize("name", ["note", "weights", "metrics", "ledger", "receipt"])
def test_no_unknown_record(world: World, name: str, record: Any) -> None:
    asked, message = world.ask()
    reply = reply_to(message)
    reply.content[name] = record
    objects = objects_of(reply)
    world.refused(asked, world.liar.push(message, objects, tree_of(objects)))


def test_an_object_that_nobody_names(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    stray = b"ArrayChunk  16\x00Jane Doe, ward 7"
    name = hashlib.sha256(stray).hexdigest()
    response = world.liar.push(message, {name: stray, **objects}, tree_of(objects))
    world.refused(asked, response)


def test_an_object_that_only_the_tree_names(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    stray = b"ArrayChunk  16\x00Jane Doe, ward 7"
    name = hashlib.sha256(stray).hexdigest()
    tree = tree_of(objects)
    tree.children.append(ObjectTree(object_id=name))
    world.refused(asked, world.liar.push(message, {name: stray, **objects}, tree))


def test_an_odd_chunk_split(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    old = of_type(objects, "Array")
    chunk = next(n for n in objects if n.encode() in objects[old])
    data = objects[chunk].partition(b"\x00")[2]
    parts = [b"ArrayChunk  %d\x00" % len(part) + part for part in (data[:5], data[5:])]
    names = [hashlib.sha256(part).hexdigest() for part in parts]
    body = objects[old].partition(b"\x00")[2].replace(b"[0]", b"[0, 1]")
    array = f"Array {','.join(names)} {len(body)}".encode() + b"\x00" + body
    _, spoilt = renamed(objects, old, array)
    spoilt.pop(chunk)
    spoilt = dict(zip(names, parts, strict=True)) | spoilt
    world.refused(asked, world.liar.push(message, spoilt, tree_of(spoilt)))


def test_an_object_under_another_id(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    name = of_type(objects, "ArrayChunk")
    response = world.liar.push(
        message, {**objects, name: objects[name] + b"Jane"}, tree_of(objects)
    )
    world.refused(asked, response)


@pytest.mark.parametrize("name", ["../../../../tmp/Jane", "A" * 64, "", "0" * 63, "0" * 65])
def test_an_id_that_is_none(world: World, name: str) -> None:
    """An id becomes the name of a file."""
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    tree = tree_of(objects)
    tree.children.append(ObjectTree(object_id=name))
    world.refused(asked, world.liar.push(message, objects, tree))


def test_a_tree_without_end(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    tree = tree_of(objects)
    for place in range(20):
        name = hashlib.sha256(str(place).encode()).hexdigest()
        tree = ObjectTree(object_id=name, children=[tree])
    world.refused(asked, world.liar.push(message, objects, tree))


def test_unknown_fields_beside_an_announcement(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    response = world.liar.push(message, objects, tree_of(objects), extra=b"\xc2\x3e\x08Jane Doe")
    world.refused(asked, response)


def test_unknown_fields_beside_an_object(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(reply_to(message))
    announced = PushMessagesRequest(
        node=Node(node_id=NODE),
        messages_list=[message_to_proto(Message(RecordDict(), reply_to=message))],
        message_object_trees=[tree_of(objects)],
    )
    answer = world.liar.call("push-messages", announced, PushMessagesResponse)
    name, content = next(iter(objects.items()))
    pushed = PushObjectRequest(
        node=Node(node_id=NODE), run_id=1, session_id=answer.session_id, object_id=name,
        object_content=content,
    )  # fmt: skip
    extra = b"\xc2\x3e\x08Jane Doe"
    world.refused(asked, world.liar.call("push-object", pushed, PushObjectResponse, extra))


def test_an_error_of_ones_own(world: World) -> None:
    asked, message = world.ask()
    objects = objects_of(Message(Error(0x4A616E65, "Jane Doe"), reply_to=message))
    world.refused(asked, world.liar.push(message, objects, tree_of(objects)))


def test_metadata_are_the_instructions(world: World) -> None:
    """In the announcement and in the message's own object."""
    asked, message = world.ask()
    reply = reply_to(message)
    reply.metadata.__dict__.update(
        _group_id="Jane", _ttl=123.456, _created_at=7.0, _dst_node_id=99, _message_type="train.jane"
    )
    objects = objects_of(reply)
    tree = get_object_tree(reply)
    told = Message(RecordDict(), metadata=reply.metadata)  # type: ignore[call-overload]
    assert world.liar.push(message, objects, tree, told=told) is None
    left, sent = world.center.answer(asked), world.center.asked[asked].metadata
    for announced in (left.metadata, world.center.answers[asked].messages_list[0].metadata):
        assert announced.group_id == sent.group_id
        assert announced.message_type == sent.message_type
        assert announced.dst_node_id == sent.src_node_id
        assert announced.reply_to_message_id == asked
        assert 0 < announced.ttl <= sent.ttl
        assert announced.created_at > sent.created_at
    assert not world.center.answers[asked].clientapp_runtime_list
    assert not any(b"Jane" in body for _, _, body in world.center.calls)


def test_more_bytes_than_the_policy_allows_are_not_even_kept(
    tmp_path_factory: pytest.TempPathFactory, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = policy(limits=Limits(message_mb=0.0002))
    folder = tmp_path_factory.mktemp("small") / "gate"
    with Center(keys) as center, gate_here(folder, center, small) as here:
        monkeypatch.setattr("clients.gate.gate.SLACK", 0)
        world = World(center, here, Liar(here.address))
        asked, message = world.ask()
        objects = objects_of(reply_to(message))
        response = world.liar.push(message, objects, tree_of(objects))
        world.refused(asked, response, codes.REFUSED_SIZE)


def test_a_day_has_its_bytes(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> None:
    folder = tmp_path_factory.mktemp("day") / "gate"
    with (
        Center(keys) as center,
        gate_here(folder, center, policy(limits=Limits(day_mb=0.001))) as here,
    ):
        world = World(center, here, Liar(here.address))
        asked, message = world.ask()
        objects = objects_of(reply_to(message))
        assert world.liar.push(message, objects, tree_of(objects)) is None
        assert world.center.answer(asked).has_content()
        asked, message = world.ask()
        objects = objects_of(reply_to(message))
        response = world.liar.push(message, objects, tree_of(objects))
        world.refused(asked, response, codes.REFUSED_SIZE)


def test_the_servers_receipt_goes_into_the_ledger_and_no_further(
    world: World, tmp_path: Path
) -> None:
    with Receipts(tmp_path) as receipts:
        for place in range(2):
            message = instruction()
            message.content = receipts.attach(NODE, message.content)
            assert ("receipt" in message.content) == (place > 0)
            asked = world.center.ask(message)
            below = world.liar.pull()
            assert (below.metadata.message_id != asked) or place == 0
            objects = objects_of(reply_to(below))
            assert world.liar.push(below, objects, tree_of(objects)) is None
            left = world.center.answer(asked)
            assert left.metadata.reply_to_message_id == asked
            letter = take_letter(left.content)
            assert letter is not None
            receipts.give(NODE, "west", left.content, letter)
    kinds = [event["kind"] for event in world.here.events]
    assert kinds[-5:] == ["instruction", "reply", "receipt", "instruction", "reply"]
    handed = [body for route, _, body in world.center.calls if route == "push-object"]
    assert not any(b"receipt" in body for body in handed)
