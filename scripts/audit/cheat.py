"""A SuperNode that cheats: it speaks to a gate, or past it to a server, as Flower's own does.

It runs no training. It fetches an instruction, makes an honest reply of the right form, spoils it
by one trick, and sends it.
"""

import contextlib
import hashlib
import time
from base64 import b64encode
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.gate.manifest import Exchange
from common.wire.gate import METRICS, WEIGHTS
from scripts.audit.floats import FLOATS, packed, unpacked
from scripts.audit.object_tricks import unknown_field
from scripts.audit.tricks import Draft, Objects, Secret, Trick

HEADER = "x-note"


class Cheat:
    """One cheating SuperNode.

    Args:
        address: Of a gate's door, or of a server in clear: "host:port".
        exchange: What an honest reply carries.
        metrics: Scalars of an honest reply.
    """

    def __init__(self, address: str, exchange: Exchange, metrics: dict[str, float | int]) -> None:
        self.exchange = exchange
        self.metrics = metrics
        private, public = generate_key_pairs()
        self.public = public_key_to_bytes(public)
        self.client = FleetHttpClient.from_server_address(
            address, True, None, interceptors=[NodeAuthHttpInterceptor(private, public)]
        )
        # Whatever is sent next to an honest request goes in here; no proxy of the environment's.
        self.client._client.close()
        self.http = httpx.Client(timeout=60.0, trust_env=False)
        self.client._client = self.http
        self.node = Node()

    def activate(self, timeout_s: float = 60.0) -> None:
        """Say that it is here; a gate that only starts is waited for.

        Raises:
            TimeoutError: If nobody answers.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                self.client.RegisterNode(RegisterNodeFleetRequest(public_key=self.public))
                answer = self.client.ActivateNode(
                    ActivateNodeRequest(
                        public_key=self.public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
                    )
                )
                self.node = Node(node_id=answer.node_id)
                return
            except (httpx.HTTPError, RuntimeError) as error:
                if time.monotonic() > end:
                    raise TimeoutError(f"nobody answers: {error}") from None
                time.sleep(0.2)

    def pull(self, timeout_s: float = 60.0) -> Message | None:
        """The next instruction; None where none comes in time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            answer = self.client.PullMessages(PullMessagesRequest(node=self.node))
            if not answer.messages_list:
                time.sleep(0.05)
                continue
            bare = message_from_proto(answer.messages_list[0])
            run_id = bare.metadata.run_id
            found = {
                name: self._pull_object(run_id, name)
                for name in _ids(answer.message_object_trees[0])
            }
            root = answer.message_object_trees[0].object_id
            run = self.client.GetRun(GetRunRequest(node=self.node, run_id=run_id)).run
            self.client.GetFab(GetFabRequest(node=self.node, hash_str=run.fab_hash, run_id=run_id))
            self.client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=root)
            )
            message = inflate_object_from_contents(root, found)
            assert isinstance(message, Message)
            message.metadata.__dict__["_message_id"] = root
            return message
        return None

    def _pull_object(self, run_id: int, name: str) -> bytes:
        answer = self.client.PullObject(
            PullObjectRequest(node=self.node, run_id=run_id, object_id=name)
        )
        return answer.object_content

    def honest(self, asked: Message) -> Draft:
        """An honest reply's parts: what came, moved a little."""
        came = asked.content.array_records.get(WEIGHTS) or ArrayRecord()
        rng = np.random.default_rng(len(came))
        arrays = {}
        for spec in self.exchange.up:
            if spec.name in came and came[spec.name].dtype in FLOATS:
                values = unpacked(came[spec.name])
                moved = values + rng.standard_normal(values.shape).astype(np.float32) * 1e-3
                arrays[spec.name] = packed(moved, came[spec.name].dtype)
            elif spec.name in came:
                arrays[spec.name] = came[spec.name]
            else:
                arrays[spec.name] = Array(np.zeros(spec.shape, spec.dtype))
        return Draft(arrays, dict(self.metrics))

    def reply(self, asked: Message, trick: Trick | None, secret: Secret) -> str:
        """Answer an instruction, spoilt by a trick.

        Returns:
            What the other side said to it: empty, or HTTP's status and reason.
        """
        draft = self.honest(asked)
        if trick is not None:
            draft = trick.spoil(draft, secret)
        message = self._message(asked, draft)
        objects: Objects = {
            name: found.deflate() for name, found in get_all_nested_objects(message).items()
        }
        tree = get_object_tree(message)
        root = message.object_id
        if draft.objects is not None:
            root, objects = draft.objects(objects)
            tree = tree_of(root, objects)
        for stray in draft.stray:
            name = _sha256(stray)
            objects = {name: stray, **objects}
            tree.children.append(ObjectTree(object_id=name))
        said = self._try(asked, message, tree, root, objects, draft)
        if said and (draft.header or draft.query):
            # What was tried at the wire is over; an honest reply may still leave.
            self._try(asked, message, tree, root, objects, replace(draft, header="", query=""))
        return said

    def _try(
        self,
        asked: Message,
        message: Message,
        tree: ObjectTree,
        root: str,
        objects: Objects,
        draft: Draft,
    ) -> str:
        try:
            self._send(asked, message, tree, root, objects, draft)
        except httpx.HTTPStatusError as error:
            return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
        finally:
            self.http.headers.pop(HEADER, None)
            self.http.params = httpx.QueryParams()
        return ""

    def _message(self, asked: Message, draft: Draft) -> Message:
        if draft.error is not None:
            message = Message(Error(*draft.error), reply_to=asked)
        else:
            content = RecordDict()
            if draft.arrays:
                content[WEIGHTS] = ArrayRecord(draft.arrays)
            if draft.metrics:
                content[METRICS] = MetricRecord(draft.metrics)
            for name, record in draft.records.items():
                content[name] = record
            message = Message(content, reply_to=asked)
        message.metadata.__dict__.update(_src_node_id=self.node.node_id, **draft.metadata)
        return message

    def _send(
        self,
        asked: Message,
        message: Message,
        tree: ObjectTree,
        root: str,
        objects: Objects,
        draft: Draft,
    ) -> None:
        if draft.header:
            self.http.headers[HEADER] = b64encode(draft.header.encode()).decode()
        if draft.query:
            self.http.params = httpx.QueryParams({"note": draft.query})
        message.metadata.__dict__["_message_id"] = root
        bare = message if message.has_error() else remove_content_from_message(message)
        proto = message_to_proto(bare)
        request = PushMessagesRequest(
            node=self.node, messages_list=[proto], message_object_trees=[tree],
            clientapp_runtime_list=[1.0],
        )  # fmt: skip
        if draft.request_field:
            # Parsed, so that the unknown field is part of the message and goes out with it.
            spoilt = request.SerializeToString() + unknown_field(draft.request_field)
            request = PushMessagesRequest.FromString(spoilt)
        answer = self.client.PushMessages(request)
        run_id = asked.metadata.run_id
        session = answer.session_id

        def push(name: str, content: bytes) -> Any:
            return self.client.PushObject(
                PushObjectRequest(
                    node=self.node,
                    run_id=run_id,
                    object_id=name,
                    object_content=content,
                    session_id=session,
                )
            )

        if draft.unannounced:
            # A gate wants no such object; the honest rest follows.
            with contextlib.suppress(httpx.HTTPStatusError):
                push(_sha256(draft.unannounced), draft.unannounced)
        wanted = set(answer.objects_to_push)
        for name, content in objects.items():
            if name in wanted:
                push(name, content)

    def close(self) -> None:
        """Let go of the connection."""
        self.http.close()


def tree_of(root: str, objects: Objects) -> ObjectTree:
    """A tree by what the objects themselves name."""
    head = objects[root].partition(b"\x00")[0].decode("latin-1").split(" ")
    children = [name for name in head[1].split(",") if name]
    return ObjectTree(object_id=root, children=[tree_of(name, objects) for name in children])


def _ids(tree: ObjectTree) -> list[str]:
    found: dict[str, None] = {}
    for child in tree.children:
        found |= dict.fromkeys(_ids(child))
    return [*found, tree.object_id]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
