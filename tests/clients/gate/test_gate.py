"""What a gate does when it cannot write, when it is not alone, and when the center has gone mad."""

import errno
import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK

from clients.gate import approvals
from clients.gate.book import Book
from clients.gate.manifest import Exchange, Manifest, Tensor
from clients.gate.rules import Bundles, StageRules
from clients.gate.spool import Spool
from common.errors import InputError
from common.ledger_check import read, verify
from common.wire import gate as codes
from tests.clients.gate.center import NODE, Center
from tests.clients.gate.here import gate_here
from tests.clients.gate.supernode import supernode
from tests.clients.gate.world import instruction, policy, reply_to


def test_two_gates_on_one_spool(tmp_path: Path, center: Center) -> None:
    with gate_here(tmp_path / "gate", center):
        with pytest.raises(InputError, match="another gate runs on this spool"):
            Spool(tmp_path / "gate" / "spool")
        with pytest.raises(InputError, match="another process writes it"):
            Book(tmp_path / "gate", "west", "gate")
    Spool(tmp_path / "gate" / "spool").close()


def test_a_full_disk_holds_a_reply_back_until_there_is_room(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger cannot be written: nothing leaves, not even a code; then it does."""
    asked = center.ask(instruction())
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        message = node.take()
        full, real = [True], os.fsync

        def fsync(descriptor: int) -> None:
            ledger = "ledger.jsonl" in os.readlink(f"/proc/self/fd/{descriptor}")
            if ledger and full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr("clients.gate.gate.AGAIN_S", 0.1)
        node.give(reply_to(message))
        assert asked not in center.answers
        assert not [call for call in center.calls if call[0] == "push-messages"]
        kinds = [line.event["kind"] for line in read(here.folder / "ledger.jsonl")]
        assert kinds[:3] == ["opened", "policy", "instruction"]
        full.clear()
        assert center.answer(asked).has_content()
        kinds = [event["kind"] for event in here.events]
        assert kinds[-1] == "reply"
        assert kinds.count("reply") == 1


def test_a_spool_without_room_is_tried_again(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = center.ask(instruction())
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        message = node.take()
        left = [3]
        put = here.gate.standing("open")[0].reply.put

        def full(name: str, content: bytes) -> None:
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            put(name, content)

        monkeypatch.setattr(
            type(here.gate.standing("open")[0].reply), "put", lambda _, *given: full(*given)
        )
        node.give(reply_to(message))
        assert center.answer(asked).has_content()
        assert left == [0]


def test_a_clock_that_was_set_back(tmp_path: Path, center: Center) -> None:
    """The ledger says so, and the bytes of the day stay spent."""
    asked = center.ask(instruction())
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        node.give(reply_to(node.take()))
        center.answer(asked)
        spent = here.gate.book.sent_today()
        assert spent > 0
        here.gate.book.ledger.clock = lambda: datetime.now(UTC) - timedelta(days=2)
        assert here.gate.book.sent_today() == spent
        again = center.ask(instruction())
        node.give(reply_to(node.take()))
        assert center.answer(again).has_content()
        assert int(str(here.events[-2]["clock_back_us"])) > 100_000_000_000


def test_a_ledger_that_ends_in_the_middle_of_a_line_is_gone_on_with(
    tmp_path: Path, center: Center
) -> None:
    """As the power leaves it: half of a line whose reply never left."""
    folder = tmp_path / "gate"
    path = folder / "ledger.jsonl"
    for _ in range(2):
        asked = center.ask(instruction())
        with gate_here(folder, center) as here, supernode(here.address) as node:
            node.give(reply_to(node.take()))
            assert center.answer(asked).has_content()
        whole = path.read_bytes()
        path.write_bytes(whole + whole.splitlines()[-1][:-100])
        assert any("next one mends it" in note for note in verify(path).notes)
    with gate_here(folder, center) as here:
        kinds = [event["kind"] for event in here.events]
    assert kinds.count("recovered") == 2


def test_a_line_that_was_cut_off_is_told_for_ever(tmp_path: Path, center: Center) -> None:
    """The gate goes on, and so does the ledger; `audit verify` shows what happened."""
    folder = tmp_path / "gate"
    path = folder / "ledger.jsonl"
    with gate_here(folder, center):
        pass
    path.write_bytes(path.read_bytes()[:-100])
    asked = center.ask(instruction())
    with gate_here(folder, center) as here, supernode(here.address) as node:
        node.give(reply_to(node.take()))
        assert center.answer(asked).has_content()
    kinds = [line.event["kind"] for line in read(path)]
    assert kinds == ["opened", "recovered", "policy", "instruction", "reply"]
    problem = verify(path).problem
    assert problem is not None
    assert "1 line(s) before it were cut off" in problem.words


def test_a_ledger_that_was_changed_starts_no_gate(tmp_path: Path, center: Center) -> None:
    folder = tmp_path / "gate"
    with gate_here(folder, center):
        pass
    path = folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"kind":"policy"', b'"kind":"polite"'))
    with pytest.raises(InputError, match="was changed"), gate_here(folder, center):
        pass


def bundle() -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("clients/app.py", "print('hello')")
    return buffer.getvalue()


def test_only_approved_code_comes_in(tmp_path: Path, center: Center) -> None:
    """Decided before the SuperNode hears of the run; approval and revocation count at once."""
    center.bundle = bundle()
    digest = sha256(center.bundle).hexdigest()
    folder = tmp_path / "gate"
    folder.mkdir()
    with (
        gate_here(folder, center, policy(bundles=Bundles())) as here,
        supernode(here.address) as node,
    ):
        left = center.answer(center.ask(instruction()))
        assert left.error.code == codes.REFUSED_INSTRUCTION
        assert here.events[-1]["why"] == [f"code {digest}: is not approved"]
        # The code lies where the hospital can look at it.
        offered = here.gate.spool.bundle_path(digest)
        assert offered.read_bytes() == center.bundle
        # What approves it would wait for the gate's ledger if it wrote there; it has its own.
        approvals.approve(folder, offered.read_bytes())
        asked = center.ask(instruction())
        message = node.take()
        run = node.get_run(1)
        assert run.fab_hash == digest
        assert run.override_config == {}
        assert node.get_fab(digest, 1).content == center.bundle
        approvals.revoke(folder, digest)
        node_reply = reply_to(message)
        with pytest.raises(Exception, match="ledger line"):
            node.give(node_reply)
        assert center.answer(asked).error.code == codes.REFUSED_INSTRUCTION


def test_the_policys_own_words_are_in_the_ledger(tmp_path: Path, center: Center) -> None:
    for _ in range(2):
        with gate_here(tmp_path / "gate", center) as here:
            told = [event for event in here.events if event["kind"] == "policy"]
            assert [event["digest"] for event in told] == [policy().file.digest]
    other = policy(stages={"mim": StageRules()})
    with gate_here(tmp_path / "gate", center, other) as here:
        assert here.events[-1]["digest"] == other.file.digest


def test_an_instruction_for_another_is_refused(tmp_path: Path, center: Center) -> None:
    message = instruction()
    message.metadata.__dict__["_dst_node_id"] = 3
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address):
        center.ask(message)
        # The center may not take the answer either: then a line more says so.
        until(lambda: any(event["kind"] == "refused" for event in here.events))
        (refused,) = [event for event in here.events if event["kind"] == "refused"]
        assert refused["why"] == ["it is not for this site"]


def test_what_is_no_instruction_at_all_does_no_harm(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A center that has gone mad: ids that are paths, trees without end, no message."""
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.proto.message_pb2 import ObjectTree

    nonsense = [
        PullMessagesResponse(messages_list=[ProtoMessage()]),
        PullMessagesResponse(
            messages_list=[ProtoMessage()],
            message_object_trees=[ObjectTree(object_id="../../../etc/passwd")],
        ),
        PullMessagesResponse(
            messages_list=[ProtoMessage()], message_object_trees=[ObjectTree(object_id="0" * 64)]
        ),
    ]
    pull = Center._pull_messages
    monkeypatch.setattr(
        Center, "_pull_messages", lambda self, r: nonsense.pop() if nonsense else pull(self, r)
    )
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        asked = center.ask(instruction())
        node.give(reply_to(node.take()))
        assert center.answer(asked).has_content()
        assert not nonsense


def test_equal_tensors_and_tensors_of_many_chunks(tmp_path: Path, center: Center) -> None:
    """Flower sends what is equal once; the update is measured against each one's own origin."""
    side = CHUNK // 4 + 17
    tensors = tuple(
        Tensor(name=name, dtype="float32", shape=(side,)) for name in ("a", "b", "c", "d")
    )
    manifest = Manifest(exchanges={"train.mim mim/mim": Exchange(down=tensors, up=tensors)})
    same = np.full(side, 2.0, np.float32)
    came = {"a": same, "b": same, "c": np.arange(side, dtype=np.float32), "d": same}
    message = instruction()
    message.content["weights"] = ArrayRecord({name: Array(values) for name, values in came.items()})
    asked = center.ask(message)
    with (
        gate_here(tmp_path / "gate", center, policy(manifest)) as here,
        supernode(here.address) as node,
    ):
        below = node.take()
        assert below.content.array_records == message.content.array_records
        moved = {name: Array(values * np.float32(1.5)) for name, values in came.items()}
        reply = reply_to(below, moved, {})
        node.give(reply)
        left = center.answer(asked)
        assert left.content.array_records["weights"] == reply.content.array_records["weights"]
        far = {name: Array(values * np.float32(2.5)) for name, values in came.items()}
        asked = center.ask(_again(message))
        with pytest.raises(Exception, match="ledger line"):
            node.give(reply_to(node.take(), far, {}))
        assert center.answer(asked).error.code == codes.REFUSED_UPDATE
        assert "1.5 times" in str(here.events[-1]["why"])


def _again(message: Message) -> Message:
    again = instruction()
    again.content = message.content
    return again


def test_a_supernode_without_a_key_is_given_the_nodes_id(tmp_path: Path, center: Center) -> None:
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        assert node.node_id == NODE
        assert here.gate.spool.node_id == NODE
    # The SuperNode made a key for itself; the center has never seen it.
    keys = {headers["flwr-public-key"] for _, headers, _ in center.calls}
    assert len(keys) == 1


def test_the_server_forgets_the_node(tmp_path: Path, center: Center) -> None:
    """It was registered anew: the gate learns its id, and goes on."""
    with gate_here(tmp_path / "gate", center) as here, supernode(here.address) as node:
        center.fail["pull-messages"] = [401]
        asked = center.ask(instruction())
        node.give(reply_to(node.take()))
        assert center.answer(asked).has_content()


def until(true: Any, timeout_s: float = 60.0) -> None:
    import time

    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_ledgers_last_line_is_never_ahead_of_what_leaves(
    tmp_path: Path, center: Center
) -> None:
    """When the center hears of a reply, its line stands on the disk."""
    seen: list[str] = []
    folder = tmp_path / "gate"

    def on_call(route: str) -> None:
        if route == "push-messages":
            seen.extend(str(line.event["kind"]) for line in read(folder / "ledger.jsonl"))

    center.on_call = on_call
    asked = center.ask(instruction())
    with gate_here(folder, center) as here, supernode(here.address) as node:
        node.give(reply_to(node.take()))
        center.answer(asked)
    assert seen[-1] == "reply"
