"""InProcessGrid against the installed Flower: what a site gets and gives must look the same."""

import multiprocessing
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.serverapp import Grid
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

import common
from common.wire.vocabulary import TensorSpec
from scripts.engines import inprocess
from scripts.engines.inprocess import RUN_ID, SERVER_NODE, InProcessGrid
from server.app import GridExchange
from server.context import StudyStopped
from server.exchange import Question, Reply
from tests.tiny import targets

Answer = Callable[[Message], Message]
SAME = ("run_id", "src_node_id", "reply_to_message_id", "group_id", "ttl", "message_type")


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def failing(message: Message) -> Message:
    return Message(Error(code=1003, reason="see the site's own log"), reply_to=message)


def instruction(node: int) -> Message:
    content = RecordDict({"instruction": ConfigRecord({"round": 3})})
    return Message(content, node, "train.mim", ttl=60.0, group_id="mim/mim/3")


def through_flower(answer: Answer) -> tuple[Message, Message, str]:
    """One message through Flower's own in-memory state, as its simulation sets it up.

    Returns:
        What the site got, what the server got, and the id that pushing gave.
    """
    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    state = cast(InMemoryLinkState, factory.state())
    run = Run.create_empty(RUN_ID)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    state.run_ids[RUN_ID] = RunRecord(run=run)
    state.task_store[1] = Task(task_id=1, run_id=RUN_ID)
    node = state.create_node(
        NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(32), heartbeat_interval=1e9
    )
    state.acknowledge_node_heartbeat(node_id=node, heartbeat_interval=1e9)
    grid = InMemoryGrid(state_factory=factory)
    grid.set_run(run)
    (message_id,) = grid.push_messages([instruction(node)])
    (got,) = state.get_message_ins(node_id=node, limit=1)
    reply = answer(got)
    reply.metadata.__dict__["_message_id"] = "reply"
    state.store_message_res(reply)
    (back,) = grid.pull_messages([message_id])
    return got, back, message_id


def through_ours(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> tuple[Message, Message, str]:
    got: list[Message] = []

    def client_app(message: Message, context: Context) -> Message:
        assert context.run_id == message.metadata.run_id
        assert context.node_id == message.metadata.dst_node_id
        assert context.node_config == {"site": "east"}
        got.append(message)
        return answer(message)

    monkeypatch.setattr(inprocess, "client_app", client_app)
    grid = InProcessGrid(["north", "east"])
    node = list(grid.get_node_ids())[1]
    (message_id,) = grid.push_messages([instruction(node)])
    assert list(grid.pull_messages(["unknown"])) == []
    (back,) = grid.pull_messages([message_id])
    assert list(grid.pull_messages([message_id])) == []
    return got[0], back, message_id


@pytest.mark.parametrize("answer", [echo, failing])
def test_messages_look_as_in_flower(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = through_ours(answer, monkeypatch)
    flowers = through_flower(answer)
    assert SERVER_NODE == SUPERLINK_NODE_ID
    for name in SAME:
        assert getattr(ours[0].metadata, name) == getattr(flowers[0].metadata, name), name
    for got, back, message_id in (ours, flowers):
        asked, replied = got.metadata, back.metadata
        assert asked.message_id == message_id
        assert replied.reply_to_message_id == message_id
        assert replied.src_node_id == asked.dst_node_id
        assert replied.dst_node_id == asked.src_node_id
        assert replied.run_id == asked.run_id == RUN_ID
        assert replied.group_id == asked.group_id == "mim/mim/3"
        assert replied.message_type == asked.message_type == "train.mim"
        assert asked.ttl == 60.0
        assert 0 < replied.ttl <= 60.0
    assert ours[1].has_error() == flowers[1].has_error() == (answer is failing)
    if answer is failing:
        assert ours[1].error.code == flowers[1].error.code == 1003
    else:
        assert ours[1].content == flowers[1].content


def test_flower_takes_the_grid_for_one_of_its_own() -> None:
    grid = InProcessGrid(["north", "east"])
    assert isinstance(grid, Grid)
    assert grid.run.run_id == RUN_ID
    other = Run.create_empty(5)
    grid.set_run(other)
    assert grid.run is other
    assert len(set(grid.get_node_ids())) == 2
    assert SERVER_NODE not in grid.get_node_ids()
    made = grid.create_message(RecordDict(), "query.enrol", 2, "enrol/1", 9.0)
    assert made.metadata.ttl == 9.0
    assert made.metadata.dst_node_id == 2


def test_send_and_receive_gives_every_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "client_app", lambda message, context: echo(message))
    grid = InProcessGrid(["north", "east", "west"])
    messages = [instruction(node) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
    ids = [message.metadata.message_id for message in messages]
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids
    assert len(set(ids)) == 3


def test_a_message_survives_the_way_to_a_worker_and_back() -> None:
    arrays = ArrayRecord({"w": Array(np.arange(6, dtype=np.float32).reshape(2, 3))})
    message = Message(RecordDict({"weights": arrays}), 2, "train.mim", group_id="mim/mim/1")
    message.metadata.__dict__["_message_id"] = "1"
    there = inprocess._unpack(inprocess._pack(message))
    assert there.metadata == message.metadata
    assert there.content == message.content
    back = inprocess._unpack(inprocess._pack(echo(there)))
    assert back.metadata.reply_to_message_id == "1"


def test_no_site_can_reach_the_servers_tensors_or_another_sites(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: list[float] = []

    def vandal(message: Message, context: Context) -> Message:
        record = message.content.array_records["weights"]
        array = record["w"].numpy()
        received.append(float(array[0]))
        array.setflags(write=True)
        array[:] = -1
        torch.from_numpy(array).fill_(-2)
        content = RecordDict({"weights": ArrayRecord({"w": Array(np.full(4, 9, np.float32))})})
        return Message(content, reply_to=message)

    monkeypatch.setattr(inprocess, "client_app", vandal)
    study = targets(2)
    grid = InProcessGrid(study.sites)
    exchange = GridExchange(grid, study, 1)
    exchange.nodes = {site: node for node, site in grid.sites.items()}
    mine = torch.ones(4)
    specs = (TensorSpec("w", "float32", (4,)),)
    question = Question("train", "mim", "mim/mim", 1, {"w": mine}, specs, specs)
    answers = list(exchange.ask(question, list(study.sites)))
    assert received == [1.0] * 3
    assert mine.tolist() == [1.0] * 4
    first, second, _ = answers
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    first.weights["w"].fill_(-3)
    assert second.weights["w"].tolist() == [9.0] * 4


def test_an_engine_that_fails_keeps_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    grid = InProcessGrid(["north"])
    monkeypatch.setattr(grid, "pool", type("Pool", (), {"shutdown": lambda *_, **__: None})())
    monkeypatch.setattr(
        multiprocessing, "active_children",
        lambda: [type("Worker", (), {"kill": lambda _: closed.append(True)})()],
    )  # fmt: skip
    grid.close()
    assert closed == []
    grid.close(at_once=True)
    assert closed == [True]


def test_a_killed_worker_stops_the_study_in_plain_words() -> None:
    grid = InProcessGrid(["north"])
    broken: Future[bytes] = Future()
    broken.set_exception(BrokenProcessPool())
    grid.running["1"] = ("north", "mim", broken)
    with pytest.raises(StudyStopped, match="mim, north: a worker process was ended"):
        list(grid.pull_messages(["1"]))


ORPHANS = """
import multiprocessing, sys, time
from scripts.engines.inprocess import make_pool

if __name__ == "__main__":
    pool = make_pool(2)
    futures = [pool.submit(time.sleep, 600) for _ in range(2)]
    while not all(future.running() for future in futures):
        time.sleep(0.1)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    root = str(Path(common.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    )
    assert process.stdout is not None
    workers = [Path("/proc") / pid for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)
