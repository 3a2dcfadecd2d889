"""What a recorder wrote, taken apart: every request, every byte of it, and the messages in them.

It goes by Flower's protobufs and its objects alone, and by none of the gate's code: it is there to
check the gate.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, MetricRecord
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf

from common.wire.digest import Measured, message_bytes, message_digest
from common.wire.gate import LEDGER, METRICS, WEIGHTS

PREFIX = "/v1/fleet/"
CALLS: Mapping[str, type[Protobuf]] = {
    "register-node": fleet_pb2.RegisterNodeFleetRequest,
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "unregister-node": fleet_pb2.UnregisterNodeFleetRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}
HEADERS = frozenset({
    "host", "connection", "content-length", "content-type", "accept", "accept-encoding",
    "user-agent", "flwr-public-key", "flwr-timestamp", "flwr-signature",
})  # fmt: skip
"""What a request to the server needs; another header would carry what nobody asked for."""
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        call: The last part of its path.
        head: Bytes of its head.
        headers: By small name.
        body: Its bytes.
    """

    call: str
    head: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Sent:
    """One message that a site sent.

    Attributes:
        key: The ledger's public key in its letter; empty where it has none.
        sequence: The ledger's line.
        head: That line's hash.
        digest: Of tensors and metrics, counted here.
        bytes: The same.
        error: A code in place of them; 0 where it is none.
    """

    key: str
    sequence: int
    head: str
    digest: str
    bytes: int
    error: int = 0


@dataclass
class Account:
    """Where every recorded byte belongs.

    Attributes:
        bytes: All that went up.
        requests: By call.
        heads: Bytes of heads.
        bodies: Bytes of bodies, by call.
        sent: Messages with content or a code.
        unfinished: Messages that were announced and are not all here, and why.
        problems: What belongs to nothing, in words.
    """

    bytes: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    heads: int = 0
    bodies: dict[str, int] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def payload(self) -> int:
        """Bytes of tensors and metrics."""
        return sum(sent.bytes for sent in self.sent)


def account_of(folder: Path, store: Path) -> Account:
    """Take a recorder's folder apart.

    Args:
        folder: What a recorder wrote.
        store: An empty folder, for the objects in it.
    """
    account = Account()
    roots: list[str] = []
    store.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.up")):
        if not path.stat().st_size:
            continue
        account.bytes += path.stat().st_size
        try:
            for request in requests(path):
                _take(request, account, store, roots)
        except ValueError as error:
            account.problems.append(f"{path.name}: {error}")
    # A reply whose connection broke is announced again; it is one message all the same.
    for root in dict.fromkeys(roots):
        try:
            account.sent.append(_sent(root, store))
        except (ValueError, KeyError, OSError) as error:
            account.unfinished.append(f"message {root[:12]}: is not all here ({error!r})")
    return account


def requests(path: Path) -> Iterator[Request]:
    """The requests of one connection, one at a time.

    Raises:
        ValueError: Where bytes belong to no request.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 0
        while place < len(data):
            end = data.find(HEAD_END, place)
            if end < 0:
                raise ValueError(f"{len(data) - place} bytes at {place} belong to no request")
            lines = data[place:end].decode("latin-1").split("\r\n")
            method, _, rest = lines[0].partition(" ")
            target, _, version = rest.partition(" ")
            if method != "POST" or version != "HTTP/1.1" or not target.startswith(PREFIX):
                raise ValueError(f"{lines[0][:80]!r} is none of Flower's calls")
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            begin = end + len(HEAD_END)
            size = int(headers["content-length"])
            if begin + size > len(data):
                # The connection was cut; what is there is searched all the same.
                raise ValueError(f"the last request lacks {begin + size - len(data)} bytes")
            body = data[begin : begin + size]
            yield Request(target.removeprefix(PREFIX), begin - place, headers, body)
            place = begin + size


def _take(request: Request, account: Account, store: Path, roots: list[str]) -> None:
    call = request.call
    account.requests[call] = account.requests.get(call, 0) + 1
    account.bodies[call] = account.bodies.get(call, 0) + len(request.body)
    account.heads += request.head
    for name in sorted(set(request.headers) - HEADERS):
        account.problems.append(f"{request.call}: a header {name!r:.60} that nobody needs")
    kind = CALLS.get(request.call)
    if kind is None:
        account.problems.append(f"{request.call!r:.60}: is none of Flower's calls")
        return
    try:
        read: Any = kind.FromString(request.body)
    except DecodeError:
        account.problems.append(f"{request.call}: its body is not what it should be")
        return
    known = kind()
    known.CopyFrom(read)
    known.DiscardUnknownFields()
    if known.SerializeToString(deterministic=True) != request.body:
        account.problems.append(f"{request.call}: its body holds more than its fields")
    if request.call == "push-object":
        content = read.object_content
        if hashlib.sha256(content).hexdigest() != read.object_id:
            account.problems.append("push-object: an object is not what its id says")
        (store / hashlib.sha256(content).hexdigest()).write_bytes(content)
    elif request.call == "push-messages":
        roots += [tree.object_id for tree in read.message_object_trees]


def _object(name: str, store: Path) -> tuple[str, list[str], bytes]:
    """Kind, children and body of an object."""
    if len(name) != 64 or not name.isalnum():
        raise ValueError("an object has no proper id")
    head, _, body = (store / name).read_bytes().partition(b"\x00")
    kind, children, _ = head.decode().split(" ")
    return kind, children.split(",") if children else [], body


def _sent(root: str, store: Path) -> Sent:
    """A message from its objects, measured as ledgers measure."""
    kind, children, body = _object(root, store)
    if kind != "Message":
        raise ValueError(f"is a {kind}")
    message = message_pb2.Message.FromString(body)
    if not children:
        return Sent("", 0, "", "", 0, message.error.code)
    names: dict[str, str] = json.loads(_object(children[0], store)[2])
    tensors: list[Measured] = []
    metrics: Mapping[str, Any] = {}
    letter: Mapping[str, Any] = {}
    for name, child in names.items():
        kind, _, body = _object(child, store)
        if (name, kind) == (WEIGHTS, "ArrayRecord"):
            tensors = [_tensor(key, array, store) for key, array in json.loads(body).items()]
        elif (name, kind) == (METRICS, "MetricRecord"):
            metrics = dict(MetricRecord.inflate((store / child).read_bytes()))
        elif (name, kind) == (LEDGER, "ConfigRecord"):
            letter = dict(ConfigRecord.inflate((store / child).read_bytes()))
        else:
            raise ValueError(f"holds a {kind} {name!r:.60}")
    return Sent(
        str(letter.get("key", "")),
        int(letter.get("sequence", 0)),
        str(letter.get("head", "")),
        message_digest(tensors, metrics),
        message_bytes(tensors, metrics),
    )


def _tensor(name: str, array: str, store: Path) -> Measured:
    """A tensor's entry in a digest, its chunks read one by one."""
    _, children, body = _object(array, store)
    digest, size = hashlib.sha256(), 0
    for place in json.loads(body)["arraychunk_ids"]:
        chunk = _object(children[place], store)[2]
        digest.update(chunk)
        size += len(chunk)
    return name, size, digest.hexdigest()
