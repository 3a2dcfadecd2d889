"""A server that stands where the centre would be: it hands out instructions, and keeps all it gets.

It speaks Flower's Fleet API and nothing more, on loopback, over mutual TLS as the centre does, or
in clear. Every byte that arrives is written down before it is looked at.
"""

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from google.protobuf.message import Message as Protobuf

from scripts.audit.capture import CALLS, PREFIX

NODE, RUN = 4242, 17
LARGEST = 64 * 2**20


@dataclass
class Order:
    """One instruction, and what came back.

    Attributes:
        message: The instruction; its id is set here.
        bundle: SHA-256 of the code that it would run.
        objects: The instruction's.
        run: Its run: a new one for each bundle.
        code: Of the error that came; 0 for a reply with content.
        text: The words of the error.
        received: Ids of objects that came; their bytes are in the record.
        wanted: Ids of those that are still to come.
        answered: Set when all of an answer is here.
    """

    message: Message
    bundle: str
    objects: dict[str, bytes] = field(default_factory=dict)
    run: int = RUN
    code: int = 0
    text: str = ""
    received: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)
    answered: threading.Event = field(default_factory=threading.Event)


class Sink:
    """The server; a context manager.

    Args:
        folder: Where what arrives is written.
        bundles: Code by its SHA-256.
        certificate: PEM with certificate, its key and the authority of the sites'; None: in clear.
    """

    def __init__(
        self,
        folder: Path,
        bundles: Mapping[str, bytes],
        certificate: tuple[Path, Path, Path] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bundles = dict(bundles)
        self.lock = threading.Lock()
        self.orders: dict[str, Order] = {}
        self.waiting: list[str] = []
        self.runs: dict[int, str] = {}
        self.file: IO[bytes] | None = None
        self.bytes = 0
        self.server = _Server(self, certificate)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        if self.file is not None:
            self.file.close()

    def record(self, name: str) -> Path:
        """From here on, write what arrives into a file of that name."""
        path = self.folder / name
        with self.lock:
            if self.file is not None:
                self.file.close()
            self.file = path.open("wb")
        return path

    def note(self, data: bytes) -> None:
        """Write down what arrived."""
        with self.lock:
            self.bytes += len(data)
            if self.file is not None:
                self.file.write(data)
                self.file.flush()

    def order(self, message: Message, bundle: str) -> Order:
        """Have an instruction fetched next."""
        told = message.metadata.__dict__
        known = {sha256: run for run, sha256 in self.runs.items()}
        run = known.get(bundle, RUN + len(self.runs))
        told.update(_run_id=run, _dst_node_id=NODE, _message_id="")
        name = message.object_id
        told["_message_id"] = name
        objects = {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
        made = Order(message, bundle, objects, run)
        with self.lock:
            self.runs[run] = bundle
            self.orders[name] = made
            self.waiting.append(name)
        return made

    def forget(self, order: Order) -> None:
        """Let go of an instruction that is dealt with."""
        with self.lock:
            self.orders = {key: one for key, one in self.orders.items() if one is not order}

    # Flower's calls.

    def answer(self, call: str, request: Any) -> Protobuf:
        """What a call is answered."""
        return _ANSWERS[call](self, request)

    def _pull(self, request: fleet_pb2.PullMessagesRequest) -> Protobuf:
        with self.lock:
            if not self.waiting:
                return fleet_pb2.PullMessagesResponse()
            message = self.orders[self.waiting.pop(0)].message
        bare = message_to_proto(remove_content_from_message(message))
        return fleet_pb2.PullMessagesResponse(
            messages_list=[bare], message_object_trees=[get_object_tree(message)]
        )

    def _pull_object(self, request: message_pb2.PullObjectRequest) -> Protobuf:
        for order in self.orders.values():
            content = order.objects.get(request.object_id)
            if content is not None:
                return message_pb2.PullObjectResponse(
                    object_found=True, object_available=True, object_content=content
                )
        return message_pb2.PullObjectResponse(object_found=False, object_available=False)

    def _run(self, request: run_pb2.GetRunRequest) -> Protobuf:
        run = run_pb2.Run(
            run_id=request.run_id, fab_id="sonofed/sonofed", fab_version="0.1.0",
            fab_hash=self.runs.get(request.run_id, ""),
        )  # fmt: skip
        return run_pb2.GetRunResponse(run=run)

    def _fab(self, request: fab_pb2.GetFabRequest) -> Protobuf:
        content = self.bundles.get(request.hash_str, b"")
        fab = fab_pb2.Fab(hash_str=request.hash_str, content=content)
        return fab_pb2.GetFabResponse(fab=fab)

    def _push(self, request: fleet_pb2.PushMessagesRequest) -> Protobuf:
        wanted: list[str] = []
        session = ""
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            order = self.orders.get(message.metadata.reply_to_message_id)
            if order is None:
                continue
            session = message.metadata.reply_to_message_id
            with self.lock:
                order.code, order.text = message.error.code, message.error.reason
                names = list(_ids(tree))
                order.wanted = set(names) - order.received
                wanted += names
        return fleet_pb2.PushMessagesResponse(objects_to_push=wanted, session_id=session)

    def _push_object(self, request: message_pb2.PushObjectRequest) -> Protobuf:
        order = self.orders.get(request.session_id)
        if order is None:
            return message_pb2.PushObjectResponse(stored=False)
        with self.lock:
            order.received.add(request.object_id)
            order.wanted.discard(request.object_id)
            if not order.wanted:
                order.answered.set()
        return message_pb2.PushObjectResponse(stored=True)


def _ids(tree: message_pb2.ObjectTree) -> list[str]:
    found: dict[str, None] = {}
    for child in tree.children:
        found |= dict.fromkeys(_ids(child))
    return [*found, tree.object_id]


_ANSWERS: Mapping[str, Callable[[Sink, Any], Protobuf]] = {
    "register-node": lambda sink, r: fleet_pb2.RegisterNodeFleetResponse(node_id=NODE),
    "unregister-node": lambda sink, r: fleet_pb2.UnregisterNodeFleetResponse(),
    "activate-node": lambda sink, r: fleet_pb2.ActivateNodeResponse(node_id=NODE),
    "deactivate-node": lambda sink, r: fleet_pb2.DeactivateNodeResponse(),
    "send-node-heartbeat": lambda sink, r: heartbeat_pb2.SendNodeHeartbeatResponse(success=True),
    "pull-messages": Sink._pull,
    "pull-object": Sink._pull_object,
    "get-run": Sink._run,
    "get-fab": Sink._fab,
    "confirm-message-received": lambda s, r: message_pb2.ConfirmMessageReceivedResponse(),
    "push-messages": Sink._push,
    "push-object": Sink._push_object,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, sink: Sink, certificate: tuple[Path, Path, Path] | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sink = sink
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            chain, key, authority = certificate
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(chain, key)
            self.context.load_verify_locations(authority)
            self.context.verify_mode = ssl.CERT_REQUIRED

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the handshake, then its requests."""
        if self.context is not None:
            with (
                contextlib.suppress(OSError),
                self.context.wrap_socket(request, server_side=True) as secured,
            ):
                super().finish_request(secured, client_address)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Tee:
    """A stream that notes whatever is read from it."""

    def __init__(self, source: IO[bytes], note: Callable[[bytes], None]) -> None:
        self.source = source
        self.note = note

    def readline(self, limit: int = -1) -> bytes:
        data = self.source.readline(limit)
        self.note(data)
        return data

    def read(self, size: int = -1) -> bytes:
        data = self.source.read(size)
        self.note(data)
        return data

    def close(self) -> None:
        self.source.close()

    @property
    def closed(self) -> bool:
        return self.source.closed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        cast(socket.socket, self.connection).settimeout(300)
        sink = cast(_Server, self.server).sink
        self.rfile = _Tee(cast("IO[bytes]", self.rfile), sink.note)  # type: ignore[assignment]

    def do_POST(self) -> None:
        size = min(int(self.headers.get("content-length", 0)), LARGEST)
        body = self.rfile.read(size)
        call = self.path.partition("?")[0].removeprefix(PREFIX)
        kind = CALLS.get(call)
        if kind is None:
            self.send_error(404)
            return
        answer = cast(_Server, self.server).sink.answer(call, kind.FromString(body))
        content = answer.SerializeToString(deterministic=True)
        self.send_response(200)
        self.send_header("content-type", "application/protobuf")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


def sha256(content: bytes) -> str:
    """What names a bundle."""
    return hashlib.sha256(content).hexdigest()
