"""Gate and SuperNode are killed, at every call and in any order.

No reply is lost, and none leaves twice.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from clients.gate.gate import Gate
from clients.gate.spool import Exchange
from tests.clients.gate.center import Center
from tests.clients.gate.here import gate_here
from tests.clients.gate.process import Process, gate_process
from tests.clients.gate.supernode import Connection, supernode
from tests.clients.gate.world import instruction, reply_to

ROUTES = [
    ("activate-node", 0), ("pull-messages", 0), ("get-run", 0), ("get-fab", 0), ("pull-object", 0),
    ("pull-object", 5), ("confirm-message-received", 0), ("push-messages", 0), ("push-object", 0),
    ("push-object", 7), ("push-object", 13),
]  # fmt: skip

BEGAN = ["opened", "policy", "network"]
"""A ledger's first lines."""


class Answerer(threading.Thread):
    """A SuperNode that answers whatever comes, on Flower's own connection, until it is let go."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.over = threading.Event()
        self.answered: list[Message] = []

    def run(self) -> None:
        with supernode(self.address) as node:
            while not self.over.is_set():
                got = node.receive()
                if got is not None:
                    reply = reply_to(whole(node, got[0]))
                    node.give(reply)
                    self.answered.append(reply)


def whole(node: Connection, message: Message) -> Message:
    """The worker loop's other calls for an instruction."""
    run = node.get_run(message.metadata.run_id)
    node.get_fab(run.fab_hash, message.metadata.run_id)
    node.confirm(message.metadata.run_id, message.metadata.message_id)
    return message


def killer(process: Process, route: str, number: int) -> Callable[[str], None]:
    """Kill the gate while the center deals with the n-th call of a route, once; start it again."""
    seen = {"calls": 0}

    def on_call(called: str) -> None:
        if called != route:
            return
        seen["calls"] += 1
        if seen["calls"] == number + 1:
            process.kill()
            process.start()

    return on_call


@pytest.mark.parametrize(("route", "number"), ROUTES)
def test_a_gate_that_is_killed_while_it_calls(
    tmp_path: Path, center: Center, route: str, number: int
) -> None:
    """The center has carried the call out; its answer finds nobody."""
    with gate_process(tmp_path / "west", center) as process:
        center.on_call = killer(process, route, number)
        answerer = Answerer(process.address)
        answerer.start()
        asked = center.ask(instruction())
        assert center.answer(asked).has_content()
        # And the next one, as if nothing had been.
        assert center.answer(center.ask(instruction())).has_content()
        answerer.over.set()
        wait_until_over(process)
        process.kill()
        assert process.starts == 2, process.log
        kinds = [event["kind"] for event in process.events]
        assert kinds.count("instruction") == 2
        assert kinds.count("reply") == 2
    assert len(center.answers) == 2


def test_a_gate_that_is_killed_with_an_instruction_on_its_way_to_it(
    tmp_path: Path, center: Center
) -> None:
    """The center has given it, the gate never had it."""
    with gate_process(tmp_path / "west", center) as process:

        def on_call(route: str) -> None:
            if route == "pull-messages" and center.waiting and process.starts == 1:
                process.kill()
                process.start()

        center.on_call = on_call
        asked = center.ask(instruction())
        with supernode(process.address) as node:
            node.give(reply_to(node.take()))
            assert center.answer(asked).has_content()
        wait_until_over(process)
        assert process.starts == 2
        kinds = [event["kind"] for event in process.events]
        assert kinds == [*BEGAN, "instruction", "reply"]


def wait_until_over(process: Process) -> None:
    exchanges = process.site.parent / "gate" / "spool" / "exchanges"
    deadline = time.monotonic() + 60
    while list(exchanges.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(exchanges.iterdir())


@pytest.mark.parametrize("number", [0, 3, 12])
def test_a_gate_that_is_killed_while_a_reply_comes_in(
    tmp_path: Path, center: Center, number: int
) -> None:
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        message = node.take()
        seen = {"objects": 0}
        push = node.push_object

        def dying(run_id: int, session: str, name: str, content: bytes) -> None:
            if seen["objects"] == number:
                process.kill()
                process.start()
            seen["objects"] += 1
            push(run_id, session, name, content)

        node.push_object = dying
        node.give(reply_to(message))
        assert center.answer(asked).has_content()
        wait_until_over(process)
        assert [event["kind"] for event in process.events][-2:] == ["instruction", "reply"]


def test_a_supernode_that_is_killed_gets_its_instruction_again(
    tmp_path: Path, center: Center
) -> None:
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process:
        first = take_and_die(process)
        with supernode(process.address) as node:
            again = node.take()
            assert again.metadata.message_id == first.metadata.message_id
            assert again.content == first.content
            node.give(reply_to(again))
            assert center.answer(asked).has_content()


def take_and_die(process: Process, *, pushed: int = -1) -> Message:
    """A SuperNode that takes an instruction, may push a part of its reply, and is gone."""
    from tests.clients.gate.supernode import Liar
    from tests.clients.gate.test_door import tree_of
    from tests.clients.gate.world import objects_of

    with supernode(process.address) as node:
        message = node.take()
        if pushed >= 0:
            objects = objects_of(reply_to(message))
            part = dict(list(objects.items())[:pushed])
            Liar(process.address).push(message, part, tree_of(objects))
        # Nothing is said at the end, as if it had been killed.
        node.leave_unsaid()
    return message


@pytest.mark.parametrize("pushed", [0, 4])
def test_a_supernode_that_is_killed_while_it_replies(
    tmp_path: Path, center: Center, pushed: int
) -> None:
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process:
        take_and_die(process, pushed=pushed)
        with supernode(process.address) as node:
            reply = reply_to(node.take())
            node.give(reply)
            left = center.answer(asked)
        assert left.content.array_records["weights"] == reply.content.array_records["weights"]
        wait_until_over(process)
        process.kill()
        kinds = [event["kind"] for event in process.events]
        assert kinds == [*BEGAN, "instruction", "reply"]


def test_both_are_killed(tmp_path: Path, center: Center) -> None:
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process:
        take_and_die(process, pushed=4)
        process.kill()
        process.start()
        with supernode(process.address) as node:
            node.give(reply_to(node.take()))
            assert center.answer(asked).has_content()


def test_code_that_never_answers_is_given_up(tmp_path: Path, center: Center) -> None:
    """A SuperNode that loses its reply every time, such as one that the kernel kills."""
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        for _ in range(10):
            node.take()
        threading.Thread(target=node.receive, daemon=True).start()
        left = center.answer(asked)
        assert left.error.code == 1108
        assert left.error.reason == f"ledger line {len(BEGAN) + 1}"


def crash_of(message: Message) -> Message:
    """What a SuperNode answers when its ClientApp was killed at work."""
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "crashed"), reply_to=message)


@pytest.mark.parametrize("gate_too", [False, True])
def test_code_that_is_killed_at_work_gets_its_instruction_again(
    tmp_path: Path, center: Center, gate_too: bool
) -> None:
    """Twice; the answer is that of the undisturbed one, and the center hears of nothing else."""
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        first = node.take()
        node.give(crash_of(first))
        if gate_too:
            process.kill()
            process.start()
        second = node.take()
        node.give(crash_of(second))
        third = node.take()
        assert first.metadata.message_id == third.metadata.message_id
        assert first.content == second.content == third.content
        assert not center.answers
        reply = reply_to(third)
        node.give(reply)
        left = center.answer(asked)
        assert left.content.array_records["weights"] == reply.content.array_records["weights"]
        wait_until_over(process)
        kinds = [event["kind"] for event in process.events]
        assert kinds == [*BEGAN, "instruction", "reply"]


def test_code_that_is_killed_every_time_is_given_up(tmp_path: Path, center: Center) -> None:
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        for _ in range(3):
            node.give(crash_of(node.take()))
        left = center.answer(asked)
        assert left.error.code == ErrorCode.CLIENT_APP_CRASHED
        wait_until_over(process)
        assert [event["kind"] for event in process.events][len(BEGAN) :] == ["instruction", "error"]
        # The next one begins anew.
        again = center.ask(instruction())
        node.give(crash_of(node.take()))
        node.give(reply_to(node.take()))
        assert center.answer(again).has_content()


@pytest.mark.parametrize("routes", ["judging", "open"])
def test_a_gate_that_is_killed_while_it_forgives(
    tmp_path: Path, center: Center, routes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after it has written down that the instruction is open again."""
    asked = center.ask(instruction())
    folder = tmp_path / "gate"
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:

        def killed(self: Gate, exchange: Exchange) -> bool:
            if routes == "open":
                self.move(exchange, step="open", crashed=exchange.standing.crashed + 1)
            self.stopping.set()
            raise OSError("killed")

        here = stack.enter_context(gate_here(folder, center))
        node = stack.enter_context(supernode(here.address))
        patch.setattr(Gate, "_forgive", killed)
        message = node.take()
        node.leave_unsaid()
        tell = threading.Thread(target=node.give, args=(crash_of(message),), daemon=True)
        tell.start()
        assert here.gate.stopping.wait(60)
    with gate_here(folder, center) as here, supernode(here.address) as node:
        again = node.take()
        assert again.content == message.content
        node.give(reply_to(again))
        assert center.answer(asked).has_content()


def test_a_server_that_fails_in_every_way(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers lost before and after the deed, gateways without a server: tried until it has it."""
    monkeypatch.setattr("clients.gate.courier.LONGEST_PAUSE_S", 0.1)
    for route in ("pull-messages", "pull-object", "push-messages", "push-object",
                  "confirm-message-received", "get-run", "get-fab", "activate-node"):  # fmt: skip
        center.fail[route] = [502, -1, 0]
    asked = center.ask(instruction())
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        node.give(reply_to(node.take()))
        assert center.answer(asked).has_content()
        assert here.events[-1]["kind"] == "reply"
    assert not any(left for left in center.fail.values())


def test_a_power_cut_before_the_server_may_forget(tmp_path: Path, center: Center) -> None:
    """What was handed down and is not on the disk is fetched again: the server has it still."""
    center.fail["confirm-message-received"] = [502] * 100
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process:
        first = take_and_die(process)
        process.kill()
        shelf = next((process.site.parent / "gate" / "spool" / "exchanges").glob("*/asked"))
        lost = [path for path in shelf.iterdir() if b"ArrayChunk" in path.read_bytes()]
        assert lost
        lost[0].unlink()
        lost[1].write_bytes(b"")
        process.start()
        with supernode(process.address) as node:
            again = node.take()
            assert again.content == first.content
            assert "confirm-message-received" in center.fail
            center.fail.clear()
            node.give(reply_to(again))
            assert center.answer(asked).has_content()
        wait_until_over(process)
        assert "confirm-message-received" in [route for route, _, _ in center.calls]
        kinds = [event["kind"] for event in process.events]
        assert kinds == [*BEGAN, "instruction", "reply"]


def test_nothing_is_sent_before_the_server_may_forget(tmp_path: Path, center: Center) -> None:
    """Or it would keep the instruction for ever."""
    center.fail["confirm-message-received"] = [502, 502]
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        node.give(reply_to(node.take()))
        assert center.answer(asked).has_content()
        routes = [route for route, _, _ in center.calls]
        last = len(routes) - 1 - routes[::-1].index("confirm-message-received")
        assert last < routes.index("push-messages")


def test_a_run_that_is_over(tmp_path: Path, center: Center) -> None:
    """The reply stays here, the ledger says so, and the next run is served."""
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        message = node.take()
        center.run_over = True
        node.give(reply_to(message))
        wait_until_over(process)
        center.run_over = False
        assert asked not in center.answers
        again = center.ask(instruction())
        node.give(reply_to(node.take()))
        assert center.answer(again).has_content()
        wait_until_over(process)
        kinds = [event["kind"] for event in process.events][len(BEGAN) :]
        assert kinds == ["instruction", "reply", "undelivered", "instruction", "reply"]


def test_a_reply_that_the_server_does_not_take(tmp_path: Path, center: Center) -> None:
    """It says 200 and wants nothing: an instruction that it has forgotten."""
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        message = node.take()
        with center.lock:
            center.asked.clear()
        node.give(reply_to(message))
        wait_until_over(process)
        assert process.events[-1]["kind"] == "undelivered"
        assert process.events[-1]["instruction"] == len(BEGAN)
    assert asked not in center.answers


def test_a_reply_that_the_server_gives_up_half_way(tmp_path: Path, center: Center) -> None:
    """It wanted the objects, and forgot the message before it had them all."""
    asked = center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        message = node.take()

        def forget(route: str) -> None:
            if route == "push-object":
                with center.lock:
                    center.asked.clear()
                    center.answers.clear()
                    center.objects.clear()

        center.on_call = forget
        node.give(reply_to(message))
        wait_until_over(process)
        kinds = [event["kind"] for event in process.events][len(BEGAN) :]
        assert kinds == ["instruction", "reply", "undelivered"]
        assert "half-way" in str(process.events[-1]["why"])
    assert asked not in center.answers


def test_it_stops_when_told_and_says_so_to_the_server(tmp_path: Path, center: Center) -> None:
    with gate_process(tmp_path / "west", center) as process, supernode(process.address):
        assert center.online
        assert process.stop() == 0
        assert not center.online
        process.start()
        process.wait_for("door at")


def test_it_keeps_quiet_to_the_server_where_an_answer_is_owed(
    tmp_path: Path, center: Center
) -> None:
    center.ask(instruction())
    with gate_process(tmp_path / "west", center) as process, supernode(process.address) as node:
        node.take()
        assert process.stop() == 0
        assert center.online
        process.start()
        process.wait_for("door at")


@pytest.mark.slow
def test_kills_at_random(tmp_path: Path, center: Center) -> None:
    """Thirty kills of either, whenever; every instruction that came in is answered once."""
    draw = random.Random(7)
    center.slow_s = 0.02
    with gate_process(tmp_path / "west", center) as process:
        answerer = Answerer(process.address)
        answerer.start()
        asked = []
        for _ in range(30):
            asked.append(center.ask(instruction()))
            time.sleep(draw.uniform(0.0, 3.0))
            process.kill()
            process.start()
        for one in asked:
            assert center.answer(one, 120).has_content()
        answerer.over.set()
        wait_until_over(process)
        process.kill()
        kinds = [event["kind"] for event in process.events]
        assert kinds.count("reply") == len(asked)
