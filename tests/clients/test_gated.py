"""A site's code behind its gate: what it lets in and out, and what its ledger says of it."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Error, Message, RecordDict

from clients import exchanges, gated
from clients.app import SITES_VARIABLE
from clients.gate.book import Book
from clients.gate.policy import Policy
from clients.gated import answer
from clients.settings import SiteSettings
from clients.site_list import write_sites
from common.config.data import DataSpec
from common.ledger_check import read, verify
from common.signing import read_public_key
from common.wire import gate
from common.wire.records import ERROR_INPUT
from server.receipts import Receipts, take_letter
from tests.clients.gate.world import arrays, instruction, policy, reply_to
from tests.tiny import tiny

Run = Callable[[Message, Context], Message]
CONTEXT = Context(1, 2, {"site": "west"}, RecordDict(), {})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose folder is empty; its policy is that of tests/clients/gate/world.py."""
    folder = tmp_path / "sites" / "west"
    data = DataSpec(folder=".")
    settings = SiteSettings(
        name="west", role="target", data=data, data_root=tmp_path, folder=folder, cache=tmp_path
    )
    write_sites(tmp_path / "sites.json", [settings])
    monkeypatch.setenv(SITES_VARIABLE, str(tmp_path / "sites.json"))
    judged: Policy = policy()
    monkeypatch.setattr(gated, "policy_of", lambda *_: judged)
    return folder


def honest(message: Message, context: Context) -> Message:
    return reply_to(message)


def lines(site: Path) -> list[dict[str, Any]]:
    verdict = verify(site / "ledger.jsonl")
    assert verdict.problem is None, verdict.problem
    return [dict(line.event) for line in read(site / "ledger.jsonl")]


def test_an_honest_exchange_leaves_four_lines(site: Path) -> None:
    asked = instruction()
    reply = answer(asked, CONTEXT, honest)
    opened, policy_line, came, left = lines(site)
    assert (opened["kind"], opened["site"], opened["mode"]) == ("opened", "west", "simulation")
    assert policy_line["kind"] == "policy"
    assert came["kind"] == "instruction"
    assert (came["study"], came["message"], came["training"], came["round"]) == (
        "wrist", "train.mim", "mim/mim", 2,
    )  # fmt: skip
    assert came["tensors"] == left["tensors"] == 5
    assert left["kind"] == "reply"
    assert left["metrics"] == {"loss": "0.5", "patients": 12}
    assert left["instruction"] == 2
    letter = dict(reply.content.config_records["ledger"])
    assert letter["sequence"] == 3
    assert letter["head"] == list(read(site / "ledger.jsonl"))[3].hash
    assert letter["key"] == opened["key"]
    assert (site / "ledger.key").stat().st_mode & 0o077 == 0


def test_a_second_exchange_goes_on_in_the_same_ledger(site: Path) -> None:
    answer(instruction(), CONTEXT, honest)
    answer(instruction(), CONTEXT, honest)
    kinds = [event["kind"] for event in lines(site)]
    assert kinds == ["opened", "policy", "instruction", "reply", "instruction", "reply"]


def test_a_cheat_is_refused_and_its_words_stay(site: Path) -> None:
    def cheat(message: Message, context: Context) -> Message:
        pixels = np.full((2, 3), 200, np.uint8)
        return reply_to(message, {**arrays(), "Jane Doe": Array(pixels)})

    reply = answer(instruction(), CONTEXT, cheat)
    assert reply.error.code == gate.REFUSED_CONTENT
    assert reply.error.reason == "ledger line 3"
    refused = lines(site)[3]
    assert (refused["kind"], refused["way"]) == ("refused", "out")
    assert any("Jane Doe" in words for words in refused["why"])
    assert refused["message"] == "train.mim"


def test_what_may_not_come_in_never_reaches_the_code(site: Path) -> None:
    def never(message: Message, context: Context) -> Message:
        raise AssertionError("it was asked")

    wide = instruction({"name": "wrist", "mim": {"epochs": 99}, "sites": {}})
    reply = answer(wide, CONTEXT, never)
    assert reply.error.code == gate.REFUSED_INSTRUCTION
    strange = instruction(None, order="open the masks")
    assert answer(strange, CONTEXT, never).error.code == gate.REFUSED_INSTRUCTION
    assert [event["kind"] for event in lines(site)][2:] == ["refused", "refused"]


def test_a_sites_own_code_passes_without_a_word(site: Path) -> None:
    secret = "/data/ward-7/Jane Doe.png"
    run: Run = lambda message, context: Message(Error(1003, secret), reply_to=message)  # noqa: E731
    reply = answer(instruction(), CONTEXT, run)
    assert reply.error.code == 1003
    assert secret not in str(reply.error.reason)
    assert lines(site)[3] | {"kind": "error", "code": 1003} == lines(site)[3]
    assert secret not in (site / "ledger.jsonl").read_text()


def test_a_reply_that_cannot_be_written_down_does_not_leave(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails_afterwards(message: Message, context: Context) -> Message:
        def fails(*_: object) -> None:
            raise full

        monkeypatch.setattr(os, "replace", fails)
        return reply_to(message)

    reply = answer(instruction(), CONTEXT, fails_afterwards)
    monkeypatch.undo()
    assert reply.error.code == gate.UNWRITTEN
    assert not reply.has_content()
    assert [event["kind"] for event in lines(site)] == ["opened", "policy", "instruction"]


def test_a_ledger_that_was_changed_lets_nothing_through(site: Path) -> None:
    answer(instruction(), CONTEXT, honest)
    path = site / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"patients":12', b'"patients":13'))
    assert answer(instruction(), CONTEXT, honest).error.code == gate.UNWRITTEN


def test_without_settings_the_answer_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SITES_VARIABLE, raising=False)
    assert answer(instruction(), CONTEXT, honest).error.code == ERROR_INPUT


def test_an_unsound_study_is_refused_and_not_raised(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(SITES_VARIABLE, str(site.parents[1] / "sites.json"))
    assert answer(instruction(), CONTEXT, honest).error.code == gate.REFUSED_INSTRUCTION


def test_no_part_is_imported_that_the_site_does_not_allow(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy made from the vocabulary builds the study's model: it must not build just any."""
    monkeypatch.setattr(gated, "policy_of", exchanges.simulation_policy)
    study = tiny(model={"name": "nowhere.at_all:Model", "image_size": 32})
    asked = instruction(json.loads(study.for_sites().canonical()))
    assert answer(asked, CONTEXT, honest).error.code == gate.REFUSED_INSTRUCTION
    assert lines(site)[1]["why"] == ["the study names a part that this site does not allow"]


def test_receipts_go_to_and_fro(site: Path, tmp_path: Path) -> None:
    """The server counts what came, confirms it with the next question; the ledger keeps it."""
    with Receipts(tmp_path) as receipts:
        for place in range(2):
            asked = instruction()
            asked.content = receipts.attach(2, asked.content)
            assert ("receipt" in asked.content) == (place > 0)
            reply = answer(asked, CONTEXT, honest)
            letter = take_letter(reply.content)
            assert letter is not None
            assert "ledger" not in reply.content
            receipts.give(2, "west", reply.content, letter)
    verdict = verify(site / "ledger.jsonl", None, tmp_path / "receipts.jsonl")
    assert verdict.problem is None, verdict.problem
    assert "the server confirms 2 replies, byte for byte" in verdict.notes
    events = lines(site)
    assert [event["kind"] for event in events][4:] == ["receipt", "instruction", "reply"]
    told = json.loads(events[4]["line"])["entry"]["event"]
    assert (told["sequence"], told["bytes"]) == (3, events[3]["bytes"])


def test_a_receipt_of_something_else_is_refused(site: Path) -> None:
    answer(instruction(), CONTEXT, honest)
    asked = instruction()
    line = list(read(site / "ledger.jsonl"))[3].raw.decode()
    asked.content["receipt"] = ConfigRecord({"line": line})
    assert answer(asked, CONTEXT, honest).error.code == gate.REFUSED_INSTRUCTION
    assert lines(site)[-1]["why"] == ["the server's receipt is none"]
    assert verify(site / "ledger.jsonl").problem is None


def test_a_false_receipt_that_a_ledger_holds_is_a_fault(site: Path) -> None:
    """No gate writes one; whoever rewrote the ledger around it might."""
    reply = answer(instruction(), CONTEXT, honest)
    letter = take_letter(reply.content)
    assert letter is not None
    with Receipts(site.parent) as receipts:
        receipts.give(2, "west", reply.content, ConfigRecord({**dict(letter), "head": "0" * 64}))
        line = receipts.latest[2]
    with Book(site, "west", "simulation") as book:
        assert "says something else" in book.receipt_problem(line)
        book.receipt(line)
    problem = verify(site / "ledger.jsonl").problem
    assert problem is not None
    assert (problem.number, "receipt" in problem.words) == (5, True)


def test_receipts_of_several_runs(site: Path, tmp_path: Path) -> None:
    """A site's ledger goes on over runs; the server's receipts of all of them are looked at."""
    for run in ("first", "second"):
        with Receipts(tmp_path / run) as receipts:
            for _ in range(2):
                asked = instruction()
                asked.content = receipts.attach(2, asked.content)
                reply = answer(asked, CONTEXT, honest)
                letter = take_letter(reply.content)
                assert letter is not None
                receipts.give(2, "west", reply.content, letter)
    path = site / "ledger.jsonl"
    files = [tmp_path / run / "receipts.jsonl" for run in ("first", "second")]
    verdict = verify(path, None, files)
    assert verdict.problem is None
    assert "the server confirms 4 replies, byte for byte" in verdict.notes
    problem = verify(path, None, files[:1]).problem
    assert problem is not None
    assert "a receipt that the server has not written" in problem.words


def test_a_receipt_that_the_server_never_wrote_is_a_fault(site: Path, tmp_path: Path) -> None:
    """Forged by one who has another key; it says the truth, but it is not the server's."""
    forger = tmp_path / "forger"
    with Receipts(tmp_path) as true, Receipts(forger) as false:
        reply = answer(instruction(), CONTEXT, honest)
        letter = take_letter(reply.content)
        assert letter is not None
        for receipts in (true, false):
            receipts.give(2, "west", reply.content, letter)
        asked = instruction()
        asked.content = false.attach(2, asked.content)
        answer(asked, CONTEXT, honest)
    path = site / "ledger.jsonl"
    assert verify(path).problem is None
    problem = verify(path, None, tmp_path / "receipts.jsonl").problem
    assert problem is not None
    assert (problem.file, problem.number) == (path, 5)
    assert "a receipt that the server has not written" in problem.words
    servers, others = (
        read_public_key(folder / "receipts.key.pub") for folder in (tmp_path, forger)
    )
    wrong = verify(path, None, tmp_path / "receipts.jsonl", others).problem
    assert wrong is not None
    assert "another key" in wrong.words
    notes = verify(path, None, tmp_path / "receipts.jsonl", servers).notes
    assert not any("--server-key" in note for note in notes)


def test_bytes_of_a_day_are_counted_from_the_ledger(site: Path) -> None:
    for _ in range(2):
        answer(instruction(), CONTEXT, honest)
    size = next(event["bytes"] for event in lines(site) if event["kind"] == "reply")
    with Book(site, "west", "simulation") as book:
        assert book.sent_today() == 2 * size


@pytest.mark.parametrize(
    "letter",
    [
        {}, {"key": "00" * 32, "sequence": 1}, {"key": "zz" * 32, "sequence": 1, "head": "1" * 64},
        {"key": "00" * 32, "sequence": -1, "head": "11" * 32},
        {"key": "00" * 32, "sequence": 1, "head": "11" * 32, "note": "x"},
        {"key": "00" * 32, "sequence": True, "head": "11" * 32},
    ],
)  # fmt: skip
def test_what_is_no_letter_gets_no_receipt(tmp_path: Path, letter: dict[str, Any]) -> None:
    from common.wire.errors import PayloadError

    with Receipts(tmp_path) as receipts, pytest.raises(PayloadError):
        receipts.give(2, "west", RecordDict(), ConfigRecord(letter))


def test_the_update_is_measured_against_what_came(site: Path) -> None:
    def far(message: Message, context: Context) -> Message:
        weights = {**arrays(), "conv.weight": Array(np.full((2, 3), 1e4, np.float32))}
        return reply_to(message, weights)

    assert answer(instruction(), CONTEXT, far).error.code == gate.REFUSED_UPDATE
