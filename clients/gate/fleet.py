"""HTTP/1.1 at the gate's door: Flower's Fleet routes on one socket, all else refused."""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError, Message

from clients.gate.door import ROUTES, TurnedDownError
from clients.gate.objects import LARGEST

log = logging.getLogger("sonofed.gate")

LARGEST_BODY = LARGEST + 4096
"""Bytes of a request: an object with its ids, or a tree of objects."""
IDLE_S = 120.0
MOST_CONNECTIONS = 32

Answer = Callable[..., Message]


class Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """A thread for each connection, and no more of them than a SuperNode needs.

    Args:
        listener: A socket that listens; it may belong to another network namespace.
        answer: `Door.answer`.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        super().__init__(listener.getsockname(), _Handler)
        self.socket = listener
        self.answer = answer
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def fileno(self) -> int:
        """For `serve_forever`."""
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection."""
        return self.socket.accept()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give it a thread, or close it where there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news; anything else is."""
        log.debug("a connection at the door broke", exc_info=True)

    def server_close(self) -> None:
        """Let go of the socket."""
        self.socket.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    # An answer leaves whole: half of it held back waits 40 ms for the other end.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        """Every Fleet call."""
        try:
            request, clean = self._request()
            answer = self.server.answer(request, clean=clean)
        except TurnedDownError as no:
            self._reply(no.status, b"", no.reason)
        except Exception:
            log.exception("%s", self.path[:100])
            self._reply(500, b"", "a fault of the gate")
        else:
            self._reply(200, answer.SerializeToString(), "OK")

    def _request(self) -> tuple[Message, bool]:
        """The request, and whether it holds only what is known, each field once."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise TurnedDownError(411, "no length")
        if int(length) > LARGEST_BODY:
            self.close_connection = True
            raise TurnedDownError(413, "too large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise TurnedDownError(400, "cut short")
        kind = ROUTES.get(self.path)
        if kind is None:
            raise TurnedDownError(404, "no such route")
        if self.headers.get("Content-Type") != PROTOBUF_MEDIA_TYPE:
            raise TurnedDownError(415, "no protobuf")
        request = kind()
        try:
            request.ParseFromString(body)
        except DecodeError:
            raise TurnedDownError(400, "no protobuf") from None
        request.DiscardUnknownFields()
        if kind is PushObjectRequest:
            # Large, and without repeated fields: whatever is unknown, stands twice or is written at
            # length has made it longer.
            return request, request.ByteSize() == len(body)
        return request, request.SerializeToString(deterministic=True) == body

    def _reply(self, status: int, body: bytes, reason: str) -> None:
        self.send_response_only(status, reason)
        self.send_header("Content-Type", PROTOBUF_MEDIA_TYPE)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if status != 200:
            log.warning("%s: %d %s", getattr(self, "path", "")[:100], status, reason)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no POST, or no HTTP."""
        self.close_connection = True
        self._reply(code, b"", "refused")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are many, and say nothing that the ledger does not."""
        log.debug(format, *args)
