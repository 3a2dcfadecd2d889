"""Sites that are away without having been dropped: a quorum goes on, by name; they come back."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from flwr.app import Error, Message

from common.config.study import Study
from common.plan import Training, make_plan
from common.wire.records import ERROR_FAILED, pack
from common.wire.vocabulary import ENROL
from server import attendance
from server.app import GridExchange
from server.context import ServerContext, StudyStopped
from server.exchange import least
from server.stages import enrol, train
from tests.played import Events, PlayedGrid, honest_content, server_of
from tests.tiny import targets


def study_of(sites: int = 3, quorum: float = 0.5, deadline_s: float = 0.3) -> Study:
    return targets(
        sites,
        arms=["mim", "lower"],
        mim={"rounds": 4, "epochs": 1},
        federation={"quorum": quorum, "deadline_s": deadline_s},
    )


class Consortium:
    """Played sites, some of which are not there; `asked` says who was asked what."""

    def __init__(self, run: Path, study: Study, here: Sequence[str]) -> None:
        self.study = study
        self.asked: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.grid = PlayedGrid(study.sites, self.play)
        self.nodes = {site: node for node, site in self.grid.sites.items()}
        self.grid.sites = {self.nodes[site]: site for site in here}
        self.context, self.events = server_of(study, run, self.grid)
        assert isinstance(self.context.exchange, GridExchange)
        self.context.exchange.nodes = {}

    def play(self, site: str, message: Message) -> Message:
        kind = message.metadata.message_type
        self.asked.append((site, kind))
        if kind == "query.enrol":
            place = list(self.study.sites).index(site)
            counts = dict.fromkeys(ENROL, 4) | {"site": place, "unit": 0}
            return Message(pack(metrics=counts), reply_to=message)
        if site in self.failing:
            return Message(Error(ERROR_FAILED, "Jane Doe"), reply_to=message)
        return Message(honest_content(self.study, self.training(kind), 0.5), reply_to=message)

    def training(self, kind: str = "train.mim") -> Training:
        stage = kind.partition(".")[2]
        return next(t for t in make_plan(self.study).trainings.values() if t.stage == stage)

    def comes(self, site: str) -> None:
        self.grid.sites[self.nodes[site]] = site


def trained(events: Events) -> list[list[str]]:
    return [done["sites"] for done in events.named("round")]


def moves(events: Events) -> list[tuple[str, str]]:
    return [(event["change"], event["site"]) for event in events.named("site")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "LOOK_S", 0.01)
    monkeypatch.setattr(enrol, "GRACE_S", 0.1)


def test_a_quorum_goes_on_without_one_that_does_not_come_and_it_joins_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Consortium(tmp_path, study_of(), ("source", "site0", "site2"))
    enrol.run(made.context)
    assert moves(made.events) == [("away", "site1")]
    assert made.context.away == {"site1": enrol.MISSING}
    emit = made.events.emit

    def arrive(event: str, **fields: object) -> None:
        emit(event, **fields)
        if event == "round" and fields["round"] == 2:
            made.comes("site1")

    monkeypatch.setattr(made.events, "emit", arrive)
    train.run(made.context, made.training())
    both, everybody = ["site0", "site2"], ["site0", "site1", "site2"]
    assert trained(made.events) == [both, both, everybody, everybody]
    first = made.events.named("round")[0]
    assert first["refused"] == {"site1": "it is not here"}
    assert moves(made.events) == [("away", "site1"), ("back", "site1")]
    assert made.asked.count(("site1", "query.enrol")) == 1
    record = made.context.run.checkpoint("mim/mim").load("mim/mim")
    assert record.took_part["site1"] == [3, 4]
    assert record.missed == {"site1": [1, 2]}
    noted = attendance.read_away(made.context.run)
    records = dict.fromkeys(made.context.plan.trainings, record)
    (words,) = attendance.sentences(noted, made.context.plan, records, [])
    assert words.startswith("site1: away on ")
    assert "; back on " in words
    assert "rounds 3-4 of 4 of mim/mim" in words


def test_too_few_stop_at_the_deadline_and_are_named(tmp_path: Path) -> None:
    made = Consortium(tmp_path, study_of(quorum=0.6), ("source", "site0"))
    with pytest.raises(StudyStopped, match=r"enrol: site1: did not enrol; site2: did not enrol"):
        enrol.run(made.context)
    assert attendance.read_away(made.context.run) == []


def test_a_run_that_goes_on_waits_no_deadline_for_one_that_it_knows(tmp_path: Path) -> None:
    """An hour it would be: the test would not end."""
    study = study_of(deadline_s=3600.0)
    everybody = Consortium(tmp_path, study, tuple(study.sites))
    enrol.run(everybody.context)
    made = Consortium(tmp_path, study, ("source", "site0", "site2"))
    enrol.run(made.context)
    assert list(made.context.away) == ["site1"]
    train.run(made.context, made.training())
    assert trained(made.events) == [["site0", "site2"]] * 4
    # What it said of itself before stands.
    assert made.context.run.read_state("enrol/site1")["counts"]["images"] == 4
    # And once more: who was away then and never came is known too.
    again = Consortium(tmp_path, study, ("source", "site0", "site2"))
    enrol.run(again.context)
    assert [change.change for change in attendance.read_away(again.context.run)] == ["away"]
    back = Consortium(tmp_path, study, tuple(study.sites))
    enrol.run(back.context)
    assert [change.change for change in attendance.read_away(back.context.run)] == ["away", "back"]
    assert back.context.away == {}


def test_one_that_was_never_here_is_not_waited_for_twice(tmp_path: Path) -> None:
    here = ("source", "site0", "site2")
    enrol.run(Consortium(tmp_path, study_of(), here).context)
    made = Consortium(tmp_path, study_of(deadline_s=3600.0), here)
    enrol.run(made.context)
    assert list(made.context.away) == ["site1"]


def test_where_all_are_needed_one_that_is_away_still_stops_the_study(tmp_path: Path) -> None:
    study = study_of(quorum=1.0)
    enrol.run(Consortium(tmp_path, study, tuple(study.sites)).context)
    made = Consortium(tmp_path, study, ("source", "site0", "site2"))
    with pytest.raises(StudyStopped, match="enrol: site1: did not enrol"):
        enrol.run(made.context)


def test_who_is_away_counts_for_the_quorum(tmp_path: Path) -> None:
    """Two of four are needed. Of the two that are here one fails: one of four is no half."""
    study = study_of(4)
    made = Consortium(tmp_path, study, ("source", "site0", "site1"))
    enrol.run(made.context)
    made.failing = {"site1"}
    with pytest.raises(StudyStopped, match=r"1 of 4 sites replied, 2 are needed") as stopped:
        train.run(made.context, made.training())
    assert all(site in str(stopped.value) for site in ("site1", "site2", "site3"))


@pytest.mark.parametrize("comes", [True, False])
def test_a_training_waits_visibly_for_one_it_cannot_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    made = Consortium(tmp_path, study_of(), ("site0", "site1", "site2"))
    enrol.run(made.context)
    assert moves(made.events) == [("away", "source")]
    emit = made.events.emit

    def arrive(event: str, **fields: object) -> None:
        emit(event, **fields)
        if event == "waiting" and comes:
            made.comes("source")

    monkeypatch.setattr(made.events, "emit", arrive)
    lower = made.training("train.lower")
    if comes:
        train.run(made.context, lower)
        assert trained(made.events) == [["source"]]
    else:
        with pytest.raises(StudyStopped, match=r"lower/lower, round 1: .*source: it did not say"):
            train.run(made.context, lower)
        assert ("source", "train.lower") not in made.asked
    told = made.events.named("waiting")[0]
    assert told["stage"] == "lower"
    assert "is not here; it has" in told["sites"]["source"]


def test_who_is_dropped_is_no_longer_away(tmp_path: Path) -> None:
    made = Consortium(tmp_path, study_of(4), ("source", "site0", "site1"))
    enrol.run(made.context)
    for site in ("site2", "site3"):
        attendance.note(tmp_path, "dropped", site)
    made.failing = {"site1"}
    train.run(made.context, made.training())  # of two sites one is a half
    assert made.context.away == {}


def test_a_node_that_would_not_say_who_it_is_is_not_asked_before_every_round(
    tmp_path: Path,
) -> None:
    made = Consortium(tmp_path, study_of(), tuple(study_of().sites))
    play = made.play

    def refusing(site: str, message: Message) -> Message:
        if site == "site1":
            made.asked.append((site, message.metadata.message_type))
            return Message(Error(ERROR_FAILED, "Jane Doe"), reply_to=message)
        return play(site, message)

    made.grid.play = refusing
    enrol.run(made.context)
    assert "code 1003" in made.context.away["site1"]
    train.run(made.context, made.training())
    assert trained(made.events) == [["site0", "site2"]] * 4
    assert made.asked.count(("site1", "query.enrol")) == 1


def test_a_quorum_in_binary_fractions() -> None:
    assert 0.56 * 25 > 14
    assert least(0.56, 25) == 14
    assert least(1.0, 3) == 3
    assert least(0.1, 3) == 1


def test_what_is_reachable(tmp_path: Path) -> None:
    """A choice leaves out who cannot be reached, if the others are a quorum; else it waits."""
    study = study_of()
    made = Consortium(tmp_path, study, tuple(study.sites))
    enrol.run(made.context)
    del made.grid.sites[made.nodes["site1"]]
    context: ServerContext = made.context
    left = enrol.here(context, "choosing", study.targets, study.targets)
    assert left == ("site0", "site2")
    (told,) = made.events.named("refused")
    assert (told["site"], told["training"]) == ("site1", "choosing")
    (noted,) = attendance.read_away(context.run)
    assert noted.reason == "it was not here when choosing began, which goes on without it"
    del made.grid.sites[made.nodes["site2"]]
    assert enrol.here(context, "choosing", study.targets, study.targets) == study.targets
