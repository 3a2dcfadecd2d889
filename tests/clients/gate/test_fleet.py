"""A SuperNode that talks nonsense: refused at the door, and the next honest call is answered."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest

from clients.gate import fleet
from tests.clients.gate.center import NODE, Center, Keys
from tests.clients.gate.here import Here, gate_here
from tests.clients.gate.supernode import Liar

HERE = Node(node_id=NODE)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Here]:
    with Center(keys) as center, gate_here(tmp_path_factory.mktemp("fleet"), center) as here:
        yield here


@pytest.fixture
def liar(here: Here) -> Iterator[Liar]:
    """It says its nonsense, and then the gate must still answer."""
    liar = Liar(here.address)
    yield liar
    asked = SendNodeHeartbeatRequest(node=HERE, heartbeat_interval=30)
    assert Liar(here.address).call("send-node-heartbeat", asked, SendNodeHeartbeatResponse).success


@pytest.mark.parametrize(
    "route",
    ["", "push-everything", "push-messages/", "push-messages?x=1", "../control/start-run",
     "//push-messages"],
)  # fmt: skip
def test_an_unknown_route(liar: Liar, route: str) -> None:
    assert liar.post(route, b"").status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "JANE"])
def test_another_method(liar: Liar, method: str) -> None:
    assert liar.client.request(method, "/v1/fleet/pull-messages").status_code == 501


def test_another_api(liar: Liar) -> None:
    for path in ("/v1/control/start-run", "/v1/runtime/push-object", "/health", "/"):
        assert liar.client.post(path, content=b"").status_code == 404


def test_what_is_no_protobuf(liar: Liar) -> None:
    assert liar.post("pull-messages", b"Jane Doe").status_code == 400
    assert liar.post("pull-messages", b"{}", **{"content-type": "text/json"}).status_code == 415


def test_fields_that_nobody_knows(liar: Liar) -> None:
    known = PullMessagesRequest(node=HERE).SerializeToString()
    assert liar.post("pull-messages", known + b"\xc2\x3e\x08Jane Doe").status_code == 400
    # The same field twice: protobuf takes the last, and the first could say anything.
    assert liar.post("pull-messages", known + known).status_code == 400


@pytest.mark.parametrize(
    ("route", "request_"),
    [
        ("pull-messages", PullMessagesRequest(node=Node(node_id=7))),
        ("pull-messages", PullMessagesRequest()),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=Node(node_id=7))),
        ("deactivate-node", DeactivateNodeRequest(node_id=7)),
        ("get-run", GetRunRequest(node=Node(node_id=7), run_id=1)),
        ("push-object", PushObjectRequest(node=Node(node_id=7))),
    ],
)
def test_another_node(liar: Liar, route: str, request_: PullMessagesRequest) -> None:
    assert liar.post(route, request_.SerializeToString()).status_code == 401


def test_what_was_never_handed_down(liar: Liar) -> None:
    asked = PullObjectRequest(node=HERE, run_id=1, object_id="../../ledger.key")
    assert not liar.call("pull-object", asked, PullObjectResponse).object_found
    for route, request in (
        ("get-run", GetRunRequest(node=HERE, run_id=3)),
        ("get-fab", GetFabRequest(node=HERE, run_id=3, hash_str="../../ledger.key")),
    ):
        assert liar.post(route, request.SerializeToString()).status_code == 404
    for route, request in (
        ("push-messages", PushMessagesRequest(node=HERE)),
        ("push-object", PushObjectRequest(node=HERE, session_id="x", object_id="y")),
    ):
        assert liar.post(route, request.SerializeToString()).status_code == 422


def test_a_key_of_its_own_is_of_no_account(liar: Liar) -> None:
    request = RegisterNodeFleetRequest(public_key=b"Jane Doe")
    assert liar.post("register-node", request.SerializeToString()).status_code == 200


def raw(here: Here, request: bytes) -> bytes:
    host, _, port = here.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        answer = b""
        # Where the gate has seen enough, it does not read to the end.
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
    return answer


LINE = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\n"


@pytest.mark.usefixtures("liar")
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\r\n", b"411"),
        (b"Content-Length: -1\r\n\r\n", b"411"),
        (b"Content-Length: 1e3\r\n\r\n", b"411"),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"411"),
        (b"Content-Length: 99999999999\r\n\r\n", b"413"),
        (b"Content-Length: 100\r\n\r\nabc", b"400"),
    ],
)
def test_a_body_without_a_sound_length(here: Here, head: bytes, status: bytes) -> None:
    assert raw(here, LINE + head).split(b" ")[1] == status


@pytest.mark.usefixtures("liar")
def test_what_is_no_http(here: Here) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"JANE\r\n\r\n", b"\0" * 1000,
                     b"POST " + b"x" * 100_000):  # fmt: skip
        assert b"200" not in raw(here, nonsense)[:20]


def test_too_many_connections(here: Here, liar: Liar) -> None:
    """They are closed, and the door stays open for the next."""
    host, _, port = here.address.partition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(2 * fleet.MOST_CONNECTIONS)]
    for connection in held:
        connection.close()


def test_nothing_of_it_is_in_the_ledger_or_left(here: Here) -> None:
    assert [event["kind"] for event in here.events] == ["opened", "policy"]
    assert not list((here.folder / "spool" / "exchanges").iterdir())


def test_the_spool_is_for_its_owner_alone(here: Here) -> None:
    spool: Path = here.folder / "spool"
    assert spool.stat().st_mode & 0o077 == 0
