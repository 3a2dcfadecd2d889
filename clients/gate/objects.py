"""A message as Flower's content-addressed objects: taken only if they are the honest sender's.

What the objects say is read, written anew, and must come out as the same bytes. So nothing rides
along: no object that nobody names, chunk of another size, unknown field of protobuf, JSON key that
stands twice, or white space. Tensors stay on the disk and are read in pieces.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER

from clients.gate.facts import RefusedError, TensorFacts
from clients.gate.tensors import Told, read_tensor, refused

LARGEST = CHUNK + 4096
"""Bytes of any object: a chunk with its head. Nobody's names and numbers need more."""
_DIVIDER = HEAD_VALUE_DIVIDER.encode()
_SMALL: Mapping[str, type[ConfigRecord] | type[MetricRecord]] = {
    "ConfigRecord": ConfigRecord, "MetricRecord": MetricRecord
}  # fmt: skip


class Objects(Protocol):
    """Where objects lie."""

    def get(self, name: str) -> bytes:
        """One of them."""

    def __contains__(self, name: str) -> bool:
        """Whether it is there."""


@dataclass(frozen=True)
class HeldArray:
    """A tensor that lies in objects.

    Attributes:
        id: Of its own object.
        told: What it says of itself.
        chunks: Ids of the objects that hold its bytes, in order.
    """

    id: str
    told: Told
    chunks: tuple[str, ...]

    def pieces(self, objects: Objects) -> Iterator[memoryview]:
        """Its bytes, one chunk at a time.

        Raises:
            RefusedError: If a chunk is none, or not of the size that Flower cuts.
        """
        for place, name in enumerate(self.chunks):
            kind, children, body = split(objects.get(name))
            last = place == len(self.chunks) - 1
            if kind != "ArrayChunk" or children:
                raise refused("a chunk is none")
            if not (0 < len(body) <= CHUNK if last else len(body) == CHUNK):
                raise refused("a tensor is not cut as Flower does")
            yield body


@dataclass(frozen=True)
class Held:
    """A message that lies in objects.

    Attributes:
        message: Its metadata, error and small records; its tensors are not in it.
        kinds: The kind of each of its records, by name, in order.
        arrays: Its tensors by name, in order, for each record that holds such.
        ids: Every object that it consists of.
    """

    message: Message
    kinds: Mapping[str, type]
    arrays: Mapping[str, Mapping[str, HeldArray]]
    ids: frozenset[str]


def split(content: bytes) -> tuple[str, list[str], memoryview]:
    """Kind, children and body of an object.

    Raises:
        RefusedError: If its head is not the one that Flower writes.
    """
    place = content.find(HEAD_BODY_DIVIDER)
    parts = content[: max(place, 0)].split(_DIVIDER)
    if place < 0 or len(parts) != 3 or len(content) > LARGEST:
        raise refused("an object is none")
    body = memoryview(content)[place + 1 :]
    if parts[2] != str(len(body)).encode():
        raise refused("an object is not of the size that it says")
    try:
        kind, children = parts[0].decode("ascii"), parts[1].decode("ascii")
    except UnicodeDecodeError:
        raise refused("an object is none") from None
    return kind, children.split(",") if children else [], body


def written(kind: str, children: Iterable[str], body: bytes | memoryview) -> bytes:
    """An object as Flower writes it."""
    head = HEAD_VALUE_DIVIDER.join((kind, ",".join(children), str(len(body))))
    return head.encode() + HEAD_BODY_DIVIDER + body


def written_array(told: Told, chunks: Sequence[str]) -> bytes:
    """The object of a tensor whose bytes lie in chunks."""
    children = list(dict.fromkeys(chunks))
    places = {name: place for place, name in enumerate(children)}
    body = {
        "dtype": told.dtype,
        "shape": told.shape,
        "stype": told.stype,
        "arraychunk_ids": [places[name] for name in chunks],
    }
    return written("Array", children, json.dumps(body).encode())


def written_names(kind: str, names: Mapping[str, str]) -> bytes:
    """The object of a record of tensors, or of a dictionary of records: what is called how."""
    return written(kind, dict.fromkeys(names.values()), json.dumps(dict(names)).encode())


def written_message(message: Message, content: str | None) -> bytes:
    """The object of a message: metadata without its own id, and an error or a content's id."""
    metadata = metadata_to_proto(message.metadata)
    metadata.message_id = ""
    error = error_to_proto(message.error) if message.has_error() else None
    body = ProtoMessage(metadata=metadata, content=None, error=error)
    children = [] if content is None else [content]
    return written("Message", children, body.SerializeToString(deterministic=True))


def object_id(content: bytes) -> str:
    """An object's id."""
    return hashlib.sha256(content).hexdigest()


def tree_ids(tree: ObjectTree) -> list[str]:
    """Every id in a tree once, children first."""
    found: dict[str, None] = {}

    def walk(node: ObjectTree) -> None:
        for child in node.children:
            walk(child)
        found[node.object_id] = None

    walk(tree)
    return list(found)


def open_held(root: str, objects: Objects, ids: Iterable[str]) -> Held:
    """The message in a set of objects; its tensors' bytes are not looked at yet.

    Args:
        root: Id of the message's own object.
        objects: Where they lie.
        ids: All of them.

    Raises:
        RefusedError: If they are not exactly what Flower writes for the message that they hold.
    """
    try:
        return _Opening(objects).open(root, frozenset(ids))
    except RefusedError:
        raise
    except FileNotFoundError:
        raise refused("an object is missing") from None
    except Exception as error:
        # Whatever a crafted object makes Flower raise: it is refused, and its words stay here.
        raise refused(f"the objects are not readable ({type(error).__name__})") from None


class _Opening:
    """One walk through a message's objects."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.seen: set[str] = set()

    def open(self, root: str, ids: frozenset[str]) -> Held:
        content = self._get(root)
        kind, children, _ = split(content)
        if kind != "Message" or len(children) > 1:
            raise refused("the objects hold no message")
        # Flower asks for the content's place only; the content is read below.
        message = Message.inflate(content, {name: RecordDict() for name in children})
        if message.has_error() and children:
            raise refused("an error comes with a content")
        self._same(content, written_message(message, children[0] if children else None))
        kinds: dict[str, type] = {}
        arrays: dict[str, Mapping[str, HeldArray]] = {}
        records = RecordDict()
        for name, child in (self._names(children[0], "RecordDict") if children else {}).items():
            kind, _, _ = split(self._get(child))
            if kind == "ArrayRecord":
                kinds[name] = ArrayRecord
                listed = self._names(child, "ArrayRecord")
                arrays[name] = {key: self.array(array) for key, array in listed.items()}
            elif kind in _SMALL:
                kinds[name] = _SMALL[kind]
                records[name] = self._small(child, _SMALL[kind])
            else:
                raise refused(f"an object {kind!r:.80} is no record")
        if not message.has_error():
            message.content = records
        if self.seen != ids:
            raise refused(f"{len(ids - self.seen)} object(s) belong to nothing")
        return Held(message, kinds, arrays, ids)

    def array(self, name: str) -> HeldArray:
        content = self._get(name)
        kind, children, body = split(content)
        if kind != "Array":
            raise refused("a tensor is none")
        told: dict[str, Any] = json.loads(bytes(body))
        places = told["arraychunk_ids"]
        if any(type(place) is not int or not 0 <= place < len(children) for place in places):
            raise refused("a tensor names a chunk that it has not")
        shape = tuple(told["shape"])
        chunks = tuple(children[place] for place in places)
        held = HeldArray(name, Told(told["dtype"], shape, told["stype"]), chunks)
        self._same(content, written_array(held.told, held.chunks))
        self.seen.update(held.chunks)
        return held

    def _get(self, name: str) -> bytes:
        self.seen.add(name)
        return self.objects.get(name)

    def _names(self, name: str, kind: str) -> Mapping[str, str]:
        content = self._get(name)
        found, _, body = split(content)
        names = json.loads(bytes(body))
        if found != kind or not isinstance(names, dict):
            raise refused(f"an object is no {kind}")
        self._same(content, written_names(kind, names))
        return names

    def _small(
        self, name: str, kind: type[ConfigRecord] | type[MetricRecord]
    ) -> ConfigRecord | MetricRecord:
        content = self._get(name)
        record = kind.inflate(content)
        self._same(content, record.deflate())
        return record

    @staticmethod
    def _same(content: bytes, again: bytes) -> None:
        if content != again:
            raise refused("an object is not written as Flower does")


def open_array(name: str, objects: Objects) -> HeldArray:
    """One tensor's object, as soon as it is there.

    Raises:
        RefusedError: If it is none.
    """
    try:
        return _Opening(objects).array(name)
    except RefusedError:
        raise
    except Exception as error:
        raise refused(f"a tensor is not readable ({type(error).__name__})") from None


def read_held(
    name: str,
    held: HeldArray,
    objects: Objects,
    incoming: HeldArray | None = None,
    incoming_objects: Objects | None = None,
) -> TensorFacts:
    """One tensor's facts, read in pieces; see `clients.gate.tensors.read_tensor`."""
    old = None
    if incoming is not None and incoming_objects is not None and incoming.told == held.told:
        old = incoming.pieces(incoming_objects)
    return read_tensor(name, held.told, held.pieces(objects), old)


Small = TypeVar("Small", ConfigRecord, MetricRecord)


@dataclass(frozen=True)
class Packed:
    """A message made ready to go: its tree, and those of its objects that are newly written.

    Attributes:
        message: With its id, and without content.
        tree: Of all its objects.
        objects: The new ones; a tensor's lie where they lay.
    """

    message: Message
    tree: ObjectTree
    objects: Mapping[str, bytes]


def pack(message: Message, arrays: Mapping[str, Mapping[str, HeldArray]]) -> Packed:
    """Write a message as objects.

    Args:
        message: Metadata and an error, or small records.
        arrays: Records of tensors, which come before the small ones.
    """
    objects: dict[str, bytes] = {}

    def put(content: bytes) -> str:
        name = object_id(content)
        objects[name] = content
        return name

    nodes: dict[str, ObjectTree] = {}
    if not message.has_error():
        names: dict[str, str] = {}
        for record, tensors in arrays.items():
            listed: dict[str, str] = {}
            below: dict[str, ObjectTree] = {}
            for key, held in tensors.items():
                listed[key] = put(written_array(held.told, held.chunks))
                chunks = [ObjectTree(object_id=chunk) for chunk in dict.fromkeys(held.chunks)]
                below[listed[key]] = ObjectTree(object_id=listed[key], children=chunks)
            names[record] = put(written_names("ArrayRecord", listed))
            nodes[names[record]] = ObjectTree(object_id=names[record], children=below.values())
        for record in message.content:
            names[record] = put(message.content[record].deflate())
            nodes[names[record]] = ObjectTree(object_id=names[record])
        content = put(written_names("RecordDict", names))
        children = [ObjectTree(object_id=content, children=nodes.values())]
        root = put(written_message(message, content))
    else:
        children = []
        root = put(written_message(message, None))
    told = message.metadata
    told.__dict__["_message_id"] = root
    bare = Message(message.error if message.has_error() else RecordDict(), metadata=told)  # type: ignore[call-overload]
    return Packed(bare, ObjectTree(object_id=root, children=children), objects)
