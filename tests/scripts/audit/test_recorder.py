"""What passes a recorder is written down, whole; and is taken apart to the byte."""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from clients.gate.book import Book
from clients.gate.payload import read_instruction, read_reply, write_reply
from scripts.audit.capture import Account, account_of, requests
from scripts.audit.object_tricks import unknown_field
from scripts.audit.reconcile import reconcile
from scripts.audit.recorder import INDEX, Recorder, Target
from tests.clients.gate.world import instruction, policy, reply_to


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that says everything twice."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(near: socket.socket) -> None:
        with near:
            while data := near.recv(2**16):
                near.sendall(data * 2)

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(near,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_both_ways_are_recorded_to_the_byte(echo: str, tmp_path: Path) -> None:
    sent = [bytes([place]) * (300_000 + place) for place in range(3)]
    with Recorder(tmp_path / "wire", Target(lambda: echo)) as recorder:
        for data in sent:
            with socket.create_connection(("127.0.0.1", recorder.port)) as near:
                threading.Thread(target=near.sendall, args=(data,)).start()
                got = b""
                while len(got) < 2 * len(data):
                    got += near.recv(2**16)
                assert got == data * 2
    for place, data in enumerate(sent, 1):
        assert (tmp_path / "wire" / f"{place:04d}.up").read_bytes() == data
        assert (tmp_path / "wire" / f"{place:04d}.down").read_bytes() == data * 2
    told = [json.loads(line) for line in (tmp_path / "wire" / INDEX).read_text().splitlines()]
    assert sorted(line["up"] for line in told) == sorted(map(len, sent))
    assert recorder.bytes == {"up": sum(map(len, sent)), "down": 2 * sum(map(len, sent))}


def test_a_target_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        with (
            Recorder(tmp_path, Target(lambda: where)) as recorder,
            socket.create_connection(("127.0.0.1", recorder.port)) as near,
        ):
            assert near.recv(1) == b""
    assert len(recorder.failed) == 1


def http(call: str, body: bytes, *more: str) -> bytes:
    heads = [f"POST /v1/fleet/{call} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(heads).encode() + b"\r\n\r\n" + body


def pushes(folder: Path) -> tuple[list[bytes], Path]:
    """Requests of one honest reply, as a gate sends it, and the gate's ledger."""
    asked = instruction()
    reply = reply_to(asked)
    facts = read_reply(reply, asked)
    with Book(folder, "west", "gate") as book:
        book.policy(policy())
        came = book.instruction(read_instruction(asked))
        line = book.reply(read_instruction(asked), facts, came.sequence)
        left = write_reply(reply, facts, asked, book.letter(line))
    tree = get_object_tree(left)
    announced = PushMessagesRequest(
        node=Node(node_id=1),
        messages_list=[message_to_proto(left)],
        message_object_trees=[tree],
        clientapp_runtime_list=[1.0],
    )
    announced.messages_list[0].ClearField("content")
    made = [http("push-messages", announced.SerializeToString(deterministic=True))]
    for name, item in get_all_nested_objects(left).items():
        pushed = PushObjectRequest(
            node=Node(node_id=1), run_id=1, object_id=name, object_content=item.deflate()
        )
        made.append(http("push-object", pushed.SerializeToString(deterministic=True)))
    return made, folder / "ledger.jsonl"


def accounted(made: list[bytes], tmp_path: Path) -> Account:
    wire = tmp_path / "wire"
    wire.mkdir()
    # Two connections, as a gate with two objects under way has them.
    (wire / "0001.up").write_bytes(b"".join(made[::2]))
    (wire / "0002.up").write_bytes(b"".join(made[1::2]))
    return account_of(wire, tmp_path / "objects")


def test_an_honest_recording_adds_up_and_fits_its_ledger(tmp_path: Path) -> None:
    made, ledger = pushes(tmp_path / "gate")
    account = accounted(made, tmp_path)
    assert account.problems == []
    assert account.bytes == account.heads + sum(account.bodies.values()) == sum(map(len, made))
    (site,) = reconcile(account, {"west": ledger}, None)
    assert site.problems == []
    assert account.problems == []
    assert (site.replies, site.bytes, site.wire_bytes) == (1, account.payload, account.payload)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made: made[:1] + made[2:], "is not all here"),
        (lambda made: [*made, b"GET / HTTP/1.1\r\n\r\n"], "none of Flower's calls"),
        (lambda made: [*made, b"Jane Doe"], "belong to no request"),
        (lambda made: [*made, http("upload", b"x")], "none of Flower's calls"),
        (lambda made: [*made, http("pull-messages", b"", "X-Note: Jane")], "x-note"),
        (
            lambda made: [
                *made,
                http(
                    "pull-messages",
                    PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
                    + unknown_field("Jane Doe"),
                ),
            ],
            "more than its fields",
        ),
        (lambda made: [*made[:-1], made[-1][:-3]], "lacks 3 bytes"),
        (
            lambda made: [
                *made,
                http(
                    "push-object",
                    PushObjectRequest(object_id="0" * 64, object_content=b"x").SerializeToString(),
                ),
            ],
            "not what its id says",
        ),
    ],
)
def test_whatever_does_not_belong_is_named(
    spoil: Callable[[list[bytes]], list[bytes]], words: str, tmp_path: Path
) -> None:
    made, ledger = pushes(tmp_path / "gate")
    account = accounted(spoil(made), tmp_path)
    reconcile(account, {"west": ledger}, None)
    assert words in " ".join(account.problems)


def test_a_ledger_that_says_something_else_is_named(tmp_path: Path) -> None:
    made, ledger = pushes(tmp_path / "gate")
    other, other_ledger = pushes(tmp_path / "other")
    account = accounted(made, tmp_path)
    (site,) = reconcile(account, {"west": other_ledger}, None)
    assert "is not on the wire" in " ".join(site.problems)
    assert "in no site's ledger" in " ".join(account.problems)
    (tmp_path / "more").mkdir()
    doubled = accounted(made[:0], tmp_path / "more")
    (site,) = reconcile(doubled, {"west": ledger}, None)
    assert site.problems == ["line 3: its reply is not on the wire"]
    assert other != made


def test_a_reply_that_broke_off_is_one_that_the_ledger_says_was_given_up(tmp_path: Path) -> None:
    made, ledger = pushes(tmp_path / "gate")
    with Book(tmp_path / "gate", "west", "simulation") as book:
        book.undelivered(2, "given up by the server half-way")
    account = accounted(made[:1] + made[2:], tmp_path)
    (site,) = reconcile(account, {"west": ledger}, None)
    assert (site.problems, account.problems) == ([], [])
    assert (site.replies, site.given_up) == (1, 1)
    assert account.bytes == account.heads + sum(account.bodies.values())


def test_requests_are_given_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.up"
    body = b"\r\n\r\nPOST /v1/fleet/x HTTP/1.1\r\n\r\n"
    path.write_bytes(http("push-object", body) + http("get-fab", b""))
    found = list(requests(path))
    assert [(one.call, one.body) for one in found] == [("push-object", body), ("get-fab", b"")]
    assert hashlib.sha256(found[0].body).digest() == hashlib.sha256(body).digest()


def test_a_reply_that_is_announced_again_counts_once(tmp_path: Path) -> None:
    made, ledger = pushes(tmp_path / "gate")
    account = accounted([*made, made[0]], tmp_path)
    (site,) = reconcile(account, {"west": ledger}, None)
    assert (account.problems, site.problems) == ([], [])
    assert account.payload == site.bytes == site.wire_bytes
    assert account.requests["push-messages"] == 2
