"""A SuperLink that is only played: over TLS, on loopback, each request answered by a function."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse
from flwr.proto.run_pb2 import Run, RunStatus

from server.consortium import membership
from server.consortium import register as registers
from server.consortium.place import Place

Answer = Callable[[str], tuple[int, bytes]]


def runs(*states: tuple[int, str, str]) -> bytes:
    """What ListRuns answers: number, status and outcome of each run."""
    listed = ListRunsResponse()
    for number, status, outcome in states:
        listed.run_dict[number].CopyFrom(
            Run(
                run_id=number,
                status=RunStatus(status=status, sub_status=outcome),
                pending_at=f"2026-01-01T00:00:{number:02d}+00:00",
            )
        )
    return bytes(listed.SerializeToString())


def nodes(**states: str) -> bytes:
    """What ListNodes answers: each node's status by its name."""
    listed = ListNodesResponse()
    for number, (name, status) in enumerate(states.items(), start=1):
        listed.nodes_info.add(node_id=number, name=name, status=status)
    return bytes(listed.SerializeToString())


@contextmanager
def played(folder: Path, answer: Answer) -> Iterator[Place]:
    """A consortium whose SuperLink answers with status and body, by the end of the path."""
    place = Place(folder)
    membership.found(place, "played", "127.0.0.1:9", "127.0.0.1:9", 9, 10, ["localhost"])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            code, body = answer(self.path.rpartition("/")[2])
            self.send_response(code)
            self.send_header("content-type", "application/protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.superlink / "superlink.pem", place.superlink / "superlink.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with registers.changing(place) as register:
            register.superlink = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield place
        finally:
            server.shutdown()
