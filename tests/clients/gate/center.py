"""The other end of a gate: a SuperLink that keeps its rules, over TLS with client certificates.

It keeps to what `server.consortium.flower` does with instructions, replies and objects (a slow test
runs against the real one), and can be told to fail in every way that a network fails.
"""

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree

from server.consortium.authority import Authority, key_pem, new_key, pem
from server.consortium.place import Place
from tests.clients.gate.world import message_from_objects, objects_of

NODE = 2
BUNDLE = b"the code that was agreed on"
ROUTES: dict[str, type[Any]] = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "push-messages": PushMessagesRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
    "push-object": PushObjectRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
}


class Dropped(Exception):  # noqa: N818
    """The connection ends without an answer, after the request was carried out."""


@dataclass
class Keys:
    """What a site needs to reach a center."""

    ca: Path
    certificate: Path
    key: Path
    server: Path
    server_key: Path

    @classmethod
    def make(cls, folder: Path) -> "Keys":
        """An authority, a center for 127.0.0.1, and a site."""
        place = Place(folder)
        authority = Authority.create(place, "test")
        authority.server(folder, "front", ["127.0.0.1"])
        key = new_key()
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "west")]))
            .sign(key, hashes.SHA384())
        )
        certificate = folder / "site.pem"
        certificate.write_bytes(pem(authority.site("west", request)))
        (folder / "site.key").write_bytes(key_pem(key))
        return cls(
            place.ca, certificate, folder / "site.key", folder / "front.pem", folder / "front.key"
        )


@dataclass
class Center:
    """The state of a SuperLink, and what it is to do wrong.

    Attributes:
        fail: For each route, statuses that its next calls are answered with; 0 drops the
            connection before anything is done, -1 after it.
        calls: Every call's route and headers, as they came.
    """

    keys: Keys
    bundle: bytes = BUNDLE
    run_over: bool = False
    fail: dict[str, list[int]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    waiting: deque[Message] = field(default_factory=deque)
    given: dict[str, Message] = field(default_factory=dict)
    asked: dict[str, Message] = field(default_factory=dict)
    objects: dict[str, bytes | None] = field(default_factory=dict)
    answers: dict[str, PushMessagesRequest] = field(default_factory=dict)
    online: bool = False
    heard: float = 0.0
    patience_s: float = 3.0
    location: str = ""
    slow_s: float = 0.0
    on_call: Callable[[str], None] = lambda _: None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> "Center":
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.center = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.keys.server, self.keys.server_key)
        context.load_verify_locations(self.keys.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def ask(self, message: Message) -> str:
        """Put an instruction where the node will find it."""
        with self.lock:
            objects = objects_of(message)
            root = list(objects)[-1]
            message.metadata.__dict__["_message_id"] = root
            self.objects |= objects
            self.asked[root] = message
            self.waiting.append(message)
            return root

    def answer(self, asked: str, timeout_s: float = 60.0) -> Message:
        """The whole reply to an instruction."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with self.lock:
                request = self.answers.get(asked)
                if request is not None:
                    tree = request.message_object_trees[0]
                    ids = [node.object_id for node in iterate_object_tree(tree)]
                    held = {name: self.objects.get(name) for name in ids}
                    if all(held.values()):
                        root = tree.object_id
                        return message_from_objects(root, held)  # type: ignore[arg-type]
            time.sleep(0.02)
        raise AssertionError("no answer came")

    # The calls.

    def call(self, route: str, request: Any) -> Any:
        with self.lock:
            return getattr(self, "_" + route.replace("-", "_"))(request)

    def _activate_node(self, request: ActivateNodeRequest) -> Any:
        # As after a crash: the node is there until it has been silent for a while.
        if self.online and time.monotonic() - self.heard < self.patience_s:
            return 412
        self.online, self.heard = True, time.monotonic()
        return ActivateNodeResponse(node_id=NODE)

    def _deactivate_node(self, request: DeactivateNodeRequest) -> Any:
        self.online = False
        return DeactivateNodeResponse()

    def _send_node_heartbeat(self, request: SendNodeHeartbeatRequest) -> Any:
        if request.node.node_id != NODE:
            return 401
        self.online, self.heard = True, time.monotonic()
        return SendNodeHeartbeatResponse(success=True)

    def _pull_messages(self, request: PullMessagesRequest) -> Any:
        if self.run_over:
            self.given.clear()
        # Who asks for more without having confirmed has lost what it was given.
        if not self.given:
            if not self.waiting:
                return PullMessagesResponse()
            first = self.waiting.popleft()
            self.given[first.metadata.message_id] = first
        (message,) = self.given.values()
        tree = get_object_tree(message)
        bare = Message(RecordDict(), metadata=message.metadata)  # type: ignore[call-overload]
        return PullMessagesResponse(
            messages_list=[message_to_proto(bare)], message_object_trees=[tree]
        )

    def _get_run(self, request: GetRunRequest) -> Any:
        if self.run_over:
            return 403
        run = Run(run_id=request.run_id, fab_hash=sha256(self.bundle).hexdigest())
        run.override_config["run"].string = "somewhere else"
        return GetRunResponse(run=run)

    def _get_fab(self, request: GetFabRequest) -> Any:
        return GetFabResponse(fab=Fab(hash_str=request.hash_str, content=self.bundle))

    def _pull_object(self, request: PullObjectRequest) -> Any:
        content = self.objects.get(request.object_id)
        found = request.object_id in self.objects
        return PullObjectResponse(
            object_found=found, object_available=content is not None, object_content=content or b""
        )

    def _confirm_message_received(self, request: ConfirmMessageReceivedRequest) -> Any:
        self.given.pop(request.message_object_id, None)
        return ConfirmMessageReceivedResponse()

    def _push_messages(self, request: PushMessagesRequest) -> Any:
        if self.run_over:
            return 403
        message = message_from_proto(request.messages_list[0])
        tree = request.message_object_trees[0]
        asked = message.metadata.reply_to_message_id
        before = self.answers.get(asked)
        known = asked in self.asked
        if before is not None:
            known = before.message_object_trees[0].object_id == tree.object_id
        if not known or message.metadata.src_node_id != NODE:
            return PushMessagesResponse(results={tree.object_id: 0}, session_id="s")
        self.answers[asked] = request
        ids = dict.fromkeys(node.object_id for node in iterate_object_tree(tree))
        for name in ids:
            self.objects.setdefault(name, None)
        wanted = [name for name in ids if self.objects[name] is None]
        return PushMessagesResponse(
            results={tree.object_id: 0}, objects_to_push=wanted, session_id="s"
        )

    def _push_object(self, request: PushObjectRequest) -> Any:
        name, content = request.object_id, request.object_content
        assert sha256(content).hexdigest() == name
        if name not in self.objects or self.objects[name] is not None:
            return PushObjectResponse(stored=False)
        self.objects[name] = content
        return PushObjectResponse(stored=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    center: Center

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(30)
        super().setup()

    def do_POST(self) -> None:
        center = self.server.center
        route = self.path.removeprefix("/v1/fleet/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with center.lock:
            center.calls.append((route, dict(self.headers), body))
            status = center.fail[route].pop(0) if center.fail.get(route) else 200
        center.on_call(route)
        if center.slow_s:
            time.sleep(center.slow_s)
        if status == 0:
            self.close_connection = True
            return
        if status > 200:
            self._say(status, b'{"code": 1, "detail": "no"}' if status == 403 else b"")
            return
        answer = center.call(route, ROUTES[route].FromString(body))
        if status == -1:
            self.close_connection = True
            return
        if isinstance(answer, int):
            self._say(answer, b'{"code": 1, "detail": "no"}')
        else:
            self._say(200, answer.SerializeToString())

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status in (301, 302, 307, 308):
            self.send_header("Location", self.server.center.location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass
