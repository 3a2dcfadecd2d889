"""A whole exchange through a gate, between Flower's own SuperNode connection and a center."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Error, Message

from common.wire import gate as codes
from tests.clients.gate.center import NODE, Center, Keys
from tests.clients.gate.here import gate_here
from tests.clients.gate.supernode import supernode
from tests.clients.gate.world import NUMBERS, instruction, reply_to


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def center(keys: Keys) -> Iterator[Center]:
    with Center(keys) as center:
        yield center


def test_an_honest_exchange(tmp_path: Path, center: Center) -> None:
    asked = center.ask(instruction())
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        assert node.node_id == NODE
        message = node.take()
        sent = center.asked[asked]
        assert message.content.array_records == sent.content.array_records
        assert dict(message.content.config_records["instruction"]) == dict(
            sent.content.config_records["instruction"]
        )
        reply = reply_to(message)
        node.give(reply)
        left = center.answer(asked)
        assert left.content.array_records["weights"] == reply.content.array_records["weights"]
        assert dict(left.content.metric_records["metrics"]) == NUMBERS
        kinds = [event["kind"] for event in here.events]
        assert kinds == ["opened", "policy", "instruction", "reply"]
        letter = dict(left.content.config_records["ledger"])
        assert letter["sequence"] == 3
        assert left.metadata.reply_to_message_id == asked
    assert not list((tmp_path / "gate" / "spool" / "exchanges").iterdir())


def test_an_error_keeps_its_code_and_loses_its_words(tmp_path: Path, center: Center) -> None:
    asked = center.ask(instruction())
    secret = "/data/ward-7/Jane Doe.png"
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        node.give(Message(Error(1003, secret), reply_to=node.take()))
        left = center.answer(asked)
        assert left.error.code == 1003
        assert here.events[-1] | {"kind": "error", "code": 1003} == here.events[-1]
    assert not any(b"Jane" in body for _, _, body in center.calls)


def test_what_may_not_come_in_is_answered_by_the_gate(tmp_path: Path, center: Center) -> None:
    wide = {"name": "wrist", "mim": {"epochs": 99}, "sites": {}}
    asked = center.ask(instruction(wide))
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        left = center.answer(asked)
        assert left.error.code == codes.REFUSED_INSTRUCTION
        assert left.error.reason == "ledger line 2"
        assert here.events[2]["way"] == "in"
        assert node.receive() is None
