"""A link that is cut at work, in the middle of objects and both ways, and one that is very thin."""

import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

from clients.gate import upstream
from clients.gate.manifest import Tensor
from clients.gate.policy import Policy
from clients.gate.rules import StageRules
from tests.clients.gate.center import Center
from tests.clients.gate.here import Here, gate_here
from tests.clients.gate.link import DEEP, SHALLOW, Link, Way, link_to
from tests.clients.gate.supernode import supernode
from tests.clients.gate.world import instruction, policy, reply_to, with_exchange

CHUNK = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
"""Bytes of the largest object that Flower makes of an array."""
OBJECTS = 2
SHAPE = (OBJECTS, CHUNK // 4)
"""Of float32: one object a row."""


def weights(shift: float = 0.0) -> "OrderedDict[str, Array]":
    """Bytes that no two objects have in common, or the center would ask for one of them alone."""
    values = np.arange(OBJECTS * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    return OrderedDict([("conv.weight", Array(values + np.float32(shift)))])


def asking(large: bool) -> tuple[Message, Policy]:
    """An instruction, with weights of several objects or without; the answer has such weights."""
    message = instruction()
    tensor = (Tensor(name="conv.weight", dtype="float32", shape=SHAPE),)
    if large:
        message.content["weights"] = ArrayRecord(weights())
        return message, policy(with_exchange(down=tensor, up=tensor))
    del message.content["weights"]
    # An update can be measured only against weights that came.
    manifest = with_exchange(down=(), up=tensor)
    return message, policy(manifest, stages={"mim": StageRules()})


def exchange_over(
    link: Link, center: Center, folder: Path, *, large: bool = True
) -> tuple[Message, Message]:
    """One instruction and its answer; what the site gave, and what the center has of it."""
    message, rules = asking(large)
    asked = center.ask(message)
    with (
        gate_here(folder, center, rules, address=link.address) as here,
        supernode(here.address) as node,
    ):
        reply = reply_to(node.take(600), weights(1.0))
        node.give(reply)
        left = center.answer(asked, 600)
        wait_until_over(here)
        kinds = [event["kind"] for event in here.events]
    assert kinds == ["opened", "policy", "instruction", "reply"]
    assert len(center.answers) == 1
    return reply, left


def wait_until_over(here: Here) -> None:
    deadline = time.monotonic() + 60
    while here.gate.spool.exchanges and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not here.gate.spool.exchanges


def assert_same(reply: Message, left: Message) -> None:
    ours, theirs = (one.content.array_records["weights"] for one in (reply, left))
    assert list(ours) == list(theirs)
    assert all(ours[name].data == theirs[name].data for name in ours)
    assert ours["conv.weight"].data == weights(1.0)["conv.weight"].data


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_link_that_is_cut_in_the_middle_of_objects(
    tmp_path: Path, center: Center, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut falls into an object on its way: what was there counts, what was not comes again."""
    monkeypatch.setattr("clients.gate.courier.LONGEST_PAUSE_S", 0.5)
    with link_to(center.address) as link:
        # The first bytes are handshakes and small calls; then an object at a time.
        link.cut_after(way, CHUNK // 2, CHUNK, CHUNK // 3)
        reply, left = exchange_over(link, center, tmp_path / "gate")
        assert link.cuts == 3
    assert_same(reply, left)


def test_a_link_that_is_silent_for_longer_than_anybody_waits(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut, nothing comes through: the gate gives up the call, and tries again."""
    monkeypatch.setattr("clients.gate.courier.LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr("clients.gate.upstream.TIMEOUT_S", 2.0)
    with link_to(center.address) as link:
        seen: list[str] = []

        def on_call(route: str) -> None:
            if route == "push-object" and not seen:
                seen.append(route)
                link.stall()
                time.sleep(5.0)
                link.cut()
                link.flow()

        center.on_call = on_call
        reply, left = exchange_over(link, center, tmp_path / "gate")
        assert seen
    assert_same(reply, left)


SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]
LINES = [
    # 1 Mbit/s as it is, and in small: ten times the rates, a tenth of the times.
    pytest.param(1, SHALLOW, True, marks=SLOW),
    pytest.param(1, DEEP, False, marks=SLOW),
    (10, SHALLOW, False),
    (10, DEEP, False),
]


@pytest.mark.parametrize(("times", "depth", "large"), LINES)
def test_a_thin_link_carries_what_takes_longer_than_a_call_may_wait(
    tmp_path: Path,
    center: Center,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    depth: int,
    large: bool,
) -> None:
    """What is given up is silence, not slowness: two objects share the line, and both arrive.

    On a deep line all is sent at once, and the answer comes when a minute has passed.
    """
    monkeypatch.setattr(upstream, "TIMEOUT_S", upstream.TIMEOUT_S / times)
    monkeypatch.setattr(upstream, "THINNEST_BPS", upstream.THINNEST_BPS * times)
    rate = 1e6 * times
    assert 2 * 8 * CHUNK / rate > upstream.TIMEOUT_S
    with link_to(center.address, rate, depth) as link:
        reply, left = exchange_over(link, center, tmp_path / "gate", large=large)
        # Nothing was given up on the way and sent again.
        assert link.carried["up"] < 1.02 * OBJECTS * CHUNK
        assert link.carried["down"] < 1.02 * OBJECTS * CHUNK
    assert_same(reply, left)
