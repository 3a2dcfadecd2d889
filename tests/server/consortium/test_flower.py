"""An instruction is given again until its site has confirmed it: on Flower's own state."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import sql_mixin
from flwr.supercore.constant import NOOP_FEDERATION_ID, SQLITE_PRAGMAS, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers
from sqlalchemy import text

from server.consortium import flower


class SuperLink:
    """Flower's state and its handlers, without the network."""

    def __init__(self, folder: Path) -> None:
        database = str(folder / "state.db")
        self.store = ObjectStoreFactory(database).store()
        self.state = SqlLinkState(database, NoOpFederationManager(), self.store)
        self.state.initialize()
        self.node = self.state.create_node("me", "me", b"key", 30.0)
        self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, "me", TaskType.SERVER_APP
        )
        (run,) = self.state.get_run_info(run_ids=[self.run])
        assert run.primary_task_id is not None
        self.task = run.primary_task_id
        self.state.claim_task(self.task)
        self.state.activate_task(self.task)

    def ask(self, word: str) -> str:
        """What a ServerApp sends, whole; its id."""
        metadata = Metadata(
            run_id=self.run, message_id="", src_node_id=SUPERLINK_NODE_ID, dst_node_id=self.node,
            reply_to_message_id="", group_id="", created_at=now().timestamp(), ttl=3600.0,
            message_type="query.x",
        )  # fmt: skip
        content = RecordDict({"instruction": ConfigRecord({"word": word})})
        message: Message = Message(content, metadata=metadata)  # type: ignore[call-overload]
        metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        stored, wanted = self.state.store_message_and_object_tree(
            message, get_object_tree(message), session
        )
        assert stored
        objects = get_all_nested_objects(message)
        for name in wanted:
            self.state.store_object(self.run, session, name, objects[name].deflate())
        return str(message.object_id)

    def pull(self) -> list[str]:
        """What the node is given."""
        request = PullMessagesRequest(node=Node(node_id=self.node))
        answer = fleet_handlers.pull_messages(request, self.state, self.store)
        return [message.metadata.message_id for message in answer.messages_list]

    def confirm(self, message: str) -> None:
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=self.node), run_id=self.run, message_object_id=message
        )
        fleet_handlers.confirm_message_received(request, self.state, self.store)

    def answer(self, asked: str) -> None:
        """The node's reply is announced."""
        metadata = Metadata(
            run_id=self.run, message_id="", src_node_id=self.node, dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=asked, group_id="", created_at=now().timestamp(), ttl=60.0,
            message_type="query.x",
        )  # fmt: skip
        reply: Message = Message(RecordDict(), metadata=metadata)  # type: ignore[call-overload]
        metadata.__dict__["_message_id"] = reply.object_id
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(reply)],
            message_object_trees=[get_object_tree(reply)],
        )
        assert fleet_handlers.push_messages(request, self.state).objects_to_push


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` does to Flower, undone afterwards."""
    monkeypatch.setattr(flower, "AGAIN_S", 0.0)
    before = SqlLinkState.get_message_ins
    monkeypatch.setitem(vars(sql_mixin), "SQLITE_PRAGMAS", SQLITE_PRAGMAS)
    monkeypatch.setattr(flower, "flower_superlink", lambda: None)
    flower.main()
    yield
    SqlLinkState.get_message_ins = before  # type: ignore[method-assign]


@pytest.mark.usefixtures("patched")
def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    with SuperLink(tmp_path).state.session() as session:
        found = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("busy_timeout", "journal_mode", "foreign_keys")
        }
    assert found == {"busy_timeout": 120_000, "journal_mode": "wal", "foreign_keys": 1}


def test_flower_itself_gives_it_once(tmp_path: Path) -> None:
    """Once this fails, Flower gives it again by itself, and `server.consortium.flower` can go."""
    link = SuperLink(tmp_path)
    asked = link.ask("a")
    assert link.pull() == [asked]
    assert link.pull() == []


@pytest.mark.usefixtures("patched")
def test_it_is_given_again_until_it_is_confirmed(tmp_path: Path) -> None:
    link = SuperLink(tmp_path)
    first, second = link.ask("a"), link.ask("b")
    assert [link.pull(), link.pull(), link.pull()] == [[first]] * 3
    link.confirm(first)
    assert link.pull() == [second]
    link.confirm(second)
    assert link.pull() == []


@pytest.mark.usefixtures("patched")
def test_what_was_given_a_moment_ago_is_not_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = SuperLink(tmp_path)
    asked = link.ask("a")
    monkeypatch.setattr(flower, "AGAIN_S", 60.0)
    assert link.pull() == [asked]
    assert link.pull() == []


@pytest.mark.usefixtures("patched")
def test_what_is_answered_or_of_a_run_that_is_over_is_not_given_again(tmp_path: Path) -> None:
    link = SuperLink(tmp_path)
    answered = link.ask("a")
    assert link.pull() == [answered]
    link.answer(answered)
    assert link.pull() == []
    left = link.ask("b")
    assert link.pull() == [left]
    link.state.finish_task(link.task, SubStatus.FAILED, "killed")
    assert link.pull() == []


@pytest.mark.usefixtures("patched")
def test_another_node_s_is_its_own(tmp_path: Path) -> None:
    link = SuperLink(tmp_path)
    asked = link.ask("a")
    assert link.pull() == [asked]
    mine, link.node = link.node, link.state.create_node("me", "me", b"other", 30.0)
    assert link.pull() == []
    link.node = mine
    assert link.pull() == [asked]


@pytest.mark.usefixtures("patched")
def test_many_who_ask_at_once(tmp_path: Path) -> None:
    """A gate that was killed leaves a call behind; nothing is worse than being given it twice."""
    link = SuperLink(tmp_path)
    asked = link.ask("a")
    given: list[list[str]] = []
    threads = [threading.Thread(target=lambda: given.append(link.pull())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 4
    assert all(one in ([], [asked]) for one in given)
    assert [asked] in given
