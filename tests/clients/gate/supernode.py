"""A SuperNode's side of the Fleet API: Flower's own connection, and one that tells no truth."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response

from tests.clients.gate.center import NODE
from tests.clients.gate.world import objects_of


@dataclass
class Connection:
    """Flower's own callbacks, as its worker loop has them."""

    node_id: int
    receive: Callable[[], tuple[Message, ObjectTree] | None]
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]]
    get_run: Callable[[int], Any]
    get_fab: Callable[[str, int], Any]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]

    quiet: bool = False

    def leave_unsaid(self) -> None:
        """End without a word to the gate, as one that was killed does."""
        self.quiet = True

    def take(self, timeout_s: float = 60.0) -> Message:
        """The next instruction, whole, as the worker loop fetches it."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            got = self.receive()
            if got is None:
                time.sleep(0.05)
                continue
            message, tree = got
            run_id = message.metadata.run_id
            run = self.get_run(run_id)
            self.get_fab(run.fab_hash, run_id)
            ids = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
            contents = pull_objects(ids, partial(self.pull_object, run_id))
            self.confirm(run_id, message.metadata.message_id)
            whole = inflate_object_from_contents(tree.object_id, contents)
            assert isinstance(whole, Message)
            whole.metadata.__dict__["_message_id"] = message.metadata.message_id
            return whole
        raise AssertionError("no instruction came")

    def give(self, reply: Message) -> None:
        """Push a reply as the worker loop does."""
        objects = objects_of(reply)
        root = list(objects)[-1]
        reply.metadata.__dict__["_message_id"] = root
        tree = get_object_tree(reply)
        wanted, session = self.send(reply, tree, 1.5)
        push_object_contents_from_iterable(
            ((name, content) for name, content in objects.items() if name in wanted),
            lambda name, content: self.push_object(1, session, name, content),
        )


@contextmanager
def supernode(address: str) -> Iterator[Connection]:
    """Flower's own connection to a gate."""
    node: Connection | None = None
    failed: BaseException | None = None
    with pytest.MonkeyPatch.context() as patch:
        told = FleetHttpClient.DeactivateNode

        def deactivate(client: FleetHttpClient, request: Any) -> Any:
            return told(client, request) if node is None or not node.quiet else None

        patch.setattr(FleetHttpClient, "DeactivateNode", deactivate)
        # Flower waits up to 20 s between attempts; a test need not.
        patch.setattr("flwr.supercore.retry.http_retry.MAX_RETRY_DELAY", 0.5)
        with http_request_response(address, insecure=True, max_wait_time=90) as callbacks:
            node = Connection(*callbacks)
            try:
                yield node
            except BaseException as error:
                # Flower logs what goes wrong within, and goes on; a test must not.
                failed = error
    if failed is not None:
        raise failed


class Liar:
    """Calls made by hand, with whatever a SuperNode should never send."""

    def __init__(self, address: str) -> None:
        self.client = httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=60)
        self.call("activate-node", ActivateNodeRequest(public_key=b"x"), ActivateNodeResponse)

    def post(self, route: str, body: bytes, **headers: str) -> httpx.Response:
        told = {"content-type": "application/protobuf", **headers}
        return self.client.post(f"/v1/fleet/{route}", content=body, headers=told)

    def call(self, route: str, request: Any, kind: Any, extra: bytes = b"") -> Any:
        """One call; the answer, or the response where it is none."""
        response = self.post(route, request.SerializeToString(deterministic=True) + extra)
        if response.status_code != 200:
            return response
        return kind.FromString(response.content)

    def pull(self, timeout_s: float = 60.0) -> Message:
        """The next instruction, without its content."""
        request = PullMessagesRequest(node=Node(node_id=NODE))
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = self.call("pull-messages", request, PullMessagesResponse)
            if answer.messages_list:
                return message_from_proto(answer.messages_list[0])
        raise AssertionError("no instruction came")

    def push(
        self,
        asked: Message,
        objects: dict[str, bytes],
        tree: ObjectTree,
        *,
        told: Message | None = None,
        extra: bytes = b"",
    ) -> httpx.Response | None:
        """Announce a reply and push its objects; the response that refused it, if one did."""
        bare = told or Message(RecordDict(), reply_to=asked)
        request = PushMessagesRequest(
            node=Node(node_id=NODE),
            messages_list=[message_to_proto(bare)],
            message_object_trees=[tree],
            clientapp_runtime_list=[1.0],
        )
        answer = self.call("push-messages", request, PushMessagesResponse, extra)
        if isinstance(answer, httpx.Response):
            return answer
        for name, content in objects.items():
            pushed = PushObjectRequest(
                node=Node(node_id=NODE), run_id=1, session_id=answer.session_id,
                object_id=name, object_content=content,
            )  # fmt: skip
            done = self.call("push-object", pushed, PushObjectResponse)
            if isinstance(done, httpx.Response):
                return done
        return None
