"""evaluate at the server: a quorum's figures, who is missing by name, and a later run fills in."""

from pathlib import Path

import pytest
from flwr.app import Error, Message

from common.models.branches import State
from common.wire.records import ERROR_INPUT, INSTRUCTION, Instruction, pack
from server import attendance
from server.context import ServerContext, StudyStopped
from server.stages import evaluate
from tests.played import Events, PlayedGrid, server_of, weights_for
from tests.tiny import targets


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training has finished."""

    def result(self: ServerContext, key: str) -> State:
        return weights_for(self.study, self.plan.trainings[key], 0.5)

    monkeypatch.setattr(ServerContext, "result", result)


class Sites:
    """Sites that predict and score; some do not answer."""

    def __init__(self, quorum: float) -> None:
        self.study = targets(3, arms=["mim", "lower"],
                             federation={"quorum": quorum, "deadline_s": 0.2})  # fmt: skip
        self.silent: set[str] = set()
        self.refusing: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def play(self, site: str, message: Message) -> Message | None:
        key = Instruction.from_record(message.content.config_records[INSTRUCTION]).training
        self.asked.append((site, key))
        if site in self.silent:
            return None
        if site in self.refusing:
            return Message(Error(ERROR_INPUT, "Jane Doe"), reply_to=message)
        metrics = {} if key else {"mim.dice.mean": 0.5}
        return Message(pack(metrics=metrics), reply_to=message)

    def run(self, folder: Path) -> tuple[dict[str, dict[str, float | int]], Events, ServerContext]:
        grid = PlayedGrid(self.study.sites, self.play)
        context, events = server_of(self.study, folder, grid)
        return evaluate.run(context), events, context


def test_a_quorum_is_evaluated_and_a_later_run_fills_in(tmp_path: Path) -> None:
    sites = Sites(0.5)
    sites.silent, sites.refusing = {"site1"}, {"site2"}
    scored, events, context = sites.run(tmp_path)
    assert list(scored) == ["source", "site0"]
    missing = attendance.missing(context.run)["evaluate"]
    assert missing["site1"] == "no reply before the deadline"
    assert "code 1001" in missing["site2"]
    assert [event["site"] for event in events.named("refused")] == ["site1", "site2"]
    # After one question without an answer no more are put to it.
    assert [site for site, _ in sites.asked].count("site1") == 1
    sites.silent, sites.refusing, sites.asked = set(), set(), []
    scored, _, context = sites.run(tmp_path)
    assert list(scored) == ["source", "site0", "site1", "site2"]
    assert attendance.missing(context.run) == {}
    assert {site for site, _ in sites.asked} == {"site1", "site2"}


def test_too_few_stop_the_study_and_are_named(tmp_path: Path) -> None:
    sites = Sites(0.7)  # three of four
    sites.silent, sites.refusing = {"site1"}, {"site0"}
    with pytest.raises(StudyStopped, match=r"evaluate, .*site0: its data .*; site1: no reply"):
        sites.run(tmp_path)


def test_where_all_are_needed_one_stops_the_study(tmp_path: Path) -> None:
    sites = Sites(1.0)
    sites.refusing = {"site1"}
    with pytest.raises(StudyStopped, match=r"evaluate, mim/finetune_mim: site1: its data"):
        sites.run(tmp_path)
