"""A center that means harm: nothing that it sends stops the gate, fills its disk or its ledger."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from clients.gate.facts import RefusedError
from clients.gate.judging import let_in
from clients.gate.objects import object_id, written, written_message, written_names
from clients.gate.payload import read_instruction
from clients.gate.rules import Bundles
from common.ledger_format import seal
from common.wire import gate as codes
from server.receipts import read_letter
from tests.clients.gate.center import NODE, Center
from tests.clients.gate.here import Here, gate_here
from tests.clients.gate.supernode import Liar, supernode
from tests.clients.gate.world import STUDY, instruction, policy, reply_to


def answered(center: Center, node: Any) -> Message:
    """An honest round."""
    asked = center.ask(instruction())
    node.give(reply_to(node.take()))
    return center.answer(asked)


def refused(here: Here, center: Center, asked: str, code: int, words: str) -> None:
    assert center.answer(asked).error.code == code
    last = [event for event in here.events if event["kind"] == "refused"][-1]
    assert words in str(last["why"])


def with_receipt(line: Any, **more: Any) -> Message:
    message = instruction()
    message.content["receipt"] = ConfigRecord({"line": line, **more})
    return message


def receipt(**event: Any) -> str:
    entry = {
        "event": {"kind": "receipt", **event}, "previous": "0" * 64, "sequence": 3,
        "time": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip
    return seal(entry, Ed25519PrivateKey.generate()).decode("ascii")


def test_only_a_receipt_for_a_line_of_this_ledger_is_written_into_it(
    tmp_path: Path, center: Center
) -> None:
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        reply = answered(center, node)
        key, sequence, head = read_letter(reply.content.config_records["ledger"])
        line = next(event for event in here.events if event["kind"] == "reply")
        true = {
            "key": key, "site": "west", "sequence": sequence, "head": head,
            "digest": line["digest"], "bytes": line["bytes"],
        }  # fmt: skip
        for said, words in (
            ("not a receipt at all", "is none"),
            ("\u00e9" * 900_000, "is none"),
            (receipt(**true, more="x"), "is none"),
            (receipt(**{**true, "site": "x" * 5000}), "is none"),
            (receipt(**{**true, "key": "0" * 64}), "is for another ledger"),
            (receipt(**{**true, "bytes": 1}), "says something else"),
            (receipt(**{**true, "sequence": sequence - 1}), "says something else"),
            (receipt(**{**true, "sequence": 10**6}), "says something else"),
        ):
            asked = center.ask(with_receipt(said))
            refused(here, center, asked, codes.REFUSED_INSTRUCTION, words)
        center.ask(with_receipt(receipt(**true)))
        assert "receipt" not in node.take().content
        assert here.events[-2]["kind"] == "receipt"


@pytest.mark.parametrize("told", [{"line": 3}, {"line": ""}, {"line": "x", "more": "y"}, {}])
def test_a_receipts_record_holds_a_line_and_nothing_else(told: dict[str, Any]) -> None:
    message = instruction()
    message.content["receipt"] = ConfigRecord(told)
    with pytest.raises(RefusedError, match="its receipt is none"):
        read_instruction(message)


def test_a_study_of_a_thousand_floors_is_refused() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"a": deep}
    text = json.dumps({**STUDY, "mim": deep}, sort_keys=True, separators=(",", ":"))
    message = instruction(study=text, sha256=sha256(text.encode()).hexdigest())
    with pytest.raises(RefusedError, match="too deep"):
        read_instruction(message)


def test_a_tensor_of_a_dtype_that_is_none_stops_nothing(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = instruction()
    objects: dict[str, bytes] = {}

    def kept(content: bytes) -> str:
        objects[object_id(content)] = content
        return object_id(content)

    names, nodes = {}, []
    for name, array in message.content.array_records["weights"].items():
        chunk = kept(written("ArrayChunk", [], array.data))
        told = {"dtype": ["x"], "shape": array.shape, "stype": array.stype, "arraychunk_ids": [0]}
        names[name] = kept(written("Array", [chunk], json.dumps(told).encode()))
        nodes.append(ObjectTree(object_id=names[name], children=[ObjectTree(object_id=chunk)]))
    weights = kept(written_names("ArrayRecord", names))
    small = kept(message.content["instruction"].deflate())
    record = kept(written_names("RecordDict", {"instruction": small, "weights": weights}))
    root = kept(written_message(message, record))
    children = [ObjectTree(object_id=small), ObjectTree(object_id=weights, children=nodes)]
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=record, children=children)])
    monkeypatch.setattr(
        "tests.clients.gate.center.get_object_tree",
        lambda asked: tree if asked.metadata.message_id == root else get_object_tree(asked),
    )  # fmt: skip
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        with center.lock:
            message.metadata.__dict__["_message_id"] = root
            center.objects |= objects
            center.asked[root] = message
            center.waiting.append(message)
        refused(here, center, root, codes.REFUSED_INSTRUCTION, "dtype")
        assert answered(center, node).has_content()


def test_a_fault_at_one_instruction_does_not_keep_out_the_next(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [ZeroDivisionError("of the gate's own")]

    def faulty(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return let_in(*given)

    monkeypatch.setattr("clients.gate.gate.let_in", faulty)
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        asked = center.ask(instruction())
        refused(here, center, asked, codes.REFUSED_INSTRUCTION, "ZeroDivisionError")
        assert answered(center, node).has_content()


def test_more_than_any_instruction_of_its_studies_is_not_kept(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.gate.gate.SLACK", 4096)
    message = instruction()
    message.content["weights"] = ArrayRecord(
        {f"w{place}": Array("uint8", (10**6,), "numpy.ndarray", bytes([place]) * 10**6)
         for place in range(8)}
    )  # fmt: skip
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        kept = []
        center.on_call = lambda _: kept.append(
            sum(path.stat().st_size for path in (tmp_path / "gate").rglob("*") if path.is_file())
        )
        asked = center.ask(message)
        refused(here, center, asked, codes.REFUSED_SIZE, "MB came")
        assert max(kept) < 3 * 10**6
        assert answered(center, node).has_content()


def test_code_that_was_not_approved_is_not_handed_out(tmp_path: Path, center: Center) -> None:
    approved = sha256(center.bundle).hexdigest()
    rules = policy(bundles=Bundles(approved=(approved,)))
    with gate_here(tmp_path / "gate", center, rules) as here:
        liar = Liar(here.address)
        good, center.bundle = center.bundle, b"other code"
        message = instruction()
        message.metadata.__dict__["_run_id"] = 2
        asked = center.ask(message)
        refused(here, center, asked, codes.REFUSED_INSTRUCTION, "is not approved")
        center.bundle = good
        center.ask(instruction())
        liar.pull()

        def fab(run: int, digest: str) -> Any:
            request = GetFabRequest(node=Node(node_id=NODE), hash_str=digest, run_id=run)
            return liar.call("get-fab", request, GetFabResponse)

        assert fab(1, approved).fab.content == good
        assert fab(2, sha256(b"other code").hexdigest()).status_code == 404
