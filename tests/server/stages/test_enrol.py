"""Sites that leave between rounds and come back, with sites that are only played."""

from pathlib import Path

import pytest
import torch
from flwr.app import Error, Message

from common.plan import make_plan
from common.wire.records import ERROR_FAILED, pack
from common.wire.vocabulary import ENROL
from server.attendance import note
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal
from server.stages import enrol, train
from tests.played import Events, PlayedGrid, honest_content, server_of
from tests.tiny import targets

STUDY = targets(3, mim={"rounds": 4, "epochs": 1}, federation={"deadline_s": 0.5})
MIM = make_plan(STUDY).trainings["mim/mim"]
VALUES = {"site0": 0.5, "site1": 1.25, "site2": -0.75}
ASKED: list[tuple[str, str]] = []


def play(site: str, message: Message) -> Message:
    kind = message.metadata.message_type
    ASKED.append((site, kind))
    if kind == "query.enrol":
        counts = dict.fromkeys(ENROL, 4) | {"site": list(STUDY.sites).index(site), "unit": 0}
        return Message(pack(metrics=counts), reply_to=message)
    return Message(honest_content(STUDY, MIM, VALUES[site]), reply_to=message)


class Leaving(Events):
    """Notes changes when a round has ended, as a coordinator may in the meantime."""

    def __init__(self, run: Path, changes: dict[int, list[tuple[str, str]]]) -> None:
        super().__init__()
        self.run, self.changes = run, changes

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)
        if event == "round":
            for change, site in self.changes.get(int(str(fields["round"])), []):
                note(self.run, "dropped" if change == "drop" else "added", site)


def made(
    run: Path, changes: dict[int, list[tuple[str, str]]], here: tuple[str, ...] = ()
) -> tuple[ServerContext, Leaving, PlayedGrid]:
    """A run whose sites have not said who they are yet; `here`: whose nodes are there."""
    ASKED.clear()
    grid = PlayedGrid(STUDY.sites, play)
    if here:
        grid.sites = {node: site for node, site in grid.sites.items() if site in here}
    context, _ = server_of(STUDY, run, grid)
    context.exchange.nodes = {}  # type: ignore[attr-defined]
    context.tracker = events = Leaving(run, changes)
    return context, events, grid


def trained(events: Events) -> list[list[str]]:
    return [done["sites"] for done in events.named("round")]


def test_one_that_left_is_asked_nothing_until_it_is_back(tmp_path: Path) -> None:
    context, events, _ = made(tmp_path, {1: [("drop", "site1")], 3: [("add", "site1")]})
    enrol.run(context)
    train.run(context, MIM)
    everybody, others = ["site0", "site1", "site2"], ["site0", "site2"]
    assert trained(events) == [everybody, others, others, everybody]
    told = [(event["change"], event["site"]) for event in events.named("site")]
    assert told == [("dropped", "site1"), ("added", "site1")]
    assert ASKED.count(("site1", "train.mim")) == 2
    record = context.run.checkpoint(MIM.key).load(MIM.key)
    assert record.took_part == {"site0": [1, 2, 3, 4], "site1": [1, 4], "site2": [1, 2, 3, 4]}


def test_the_weights_are_those_of_the_sites_that_were_there(tmp_path: Path) -> None:
    context, _, _ = made(tmp_path, {3: [("drop", "site1")]})
    enrol.run(context)
    train.run(context, MIM)
    (weights, *_) = context.result(MIM.key).values()
    assert torch.allclose(weights, torch.full_like(weights, (0.5 - 0.75) / 2))


def test_a_run_that_goes_on_knows_who_is_away(tmp_path: Path) -> None:
    note(tmp_path, "dropped", "site1", "no network")
    here = ("source", "site0", "site2")
    context, events, _ = made(tmp_path, {}, here)
    enrol.run(context)
    assert set(context.enrolled) == set(here)
    (told,) = events.named("site")
    assert (told["site"], told["reason"]) == ("site1", "no network")


def test_one_that_was_never_there_joins_between_rounds(tmp_path: Path) -> None:
    """Not before its node is there; the others do not wait for it."""
    note(tmp_path, "dropped", "site1")
    context, events, grid = made(tmp_path, {1: [("add", "site1")]}, ("source", "site0", "site2"))
    enrol.run(context)
    emit = events.emit

    def arrive(event: str, **fields: object) -> None:
        emit(event, **fields)
        if event == "round" and fields["round"] == 3:
            grid.sites[max(grid.sites) + 7] = "site1"

    events.emit = arrive  # type: ignore[method-assign]
    train.run(context, MIM)
    assert trained(events) == [["site0", "site2"]] * 3 + [["site0", "site1", "site2"]]
    (waiting,) = events.named("waiting")
    assert waiting["sites"] == {"site1": "is not here yet"}
    assert context.run.read_state("enrol/site1")["counts"]["images"] == 4


def test_a_node_of_a_site_that_left_may_be_there_before_another(tmp_path: Path) -> None:
    note(tmp_path, "dropped", "site0")
    context, _, grid = made(tmp_path, {}, ("source", "site0", "site1"))
    look = grid.get_node_ids

    def later() -> list[int]:
        found = list(look())
        if ("site1", "query.enrol") in ASKED:
            grid.sites.setdefault(99, "site2")
        return found

    grid.get_node_ids = later  # type: ignore[method-assign]
    enrol.run(context)
    assert set(context.enrolled) >= {"source", "site1", "site2"}


def test_a_node_that_nobody_needs_may_refuse(tmp_path: Path) -> None:
    """But not one that is needed, and nobody may be there twice."""

    def refusing(site: str, message: Message) -> Message:
        if site == "site1":
            return Message(Error(code=ERROR_FAILED, reason="Jane Doe"), reply_to=message)
        return play(site, message)

    context, _, grid = made(tmp_path / "a", {})
    grid.play = refusing
    with pytest.raises(StudyStopped, match=r"enrol: .*\(code 1003\); site1: did not enrol"):
        enrol.run(context)
    note(tmp_path / "b", "dropped", "site1")
    context, _, grid = made(tmp_path / "b", {})
    grid.play = refusing
    enrol.run(context)
    grid.play = lambda site, message: play(site.replace("site1", "site0"), message)
    context, _, grid = made(tmp_path / "b", {})
    grid.play = lambda site, message: play(site.replace("site1", "site0"), message)
    with pytest.raises(StudyStopped, match="says it is site 1 of the study, which is taken"):
        enrol.run(context)


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["site0", "site1", "site2"], r"every target of the study was dropped \(site0, site1"),
        (["source"], r"every source of the study was dropped \(source\); `sonofed study add-site`"),
    ],
)
def test_nobody_left(tmp_path: Path, sites: list[str], words: str) -> None:
    context, events, _ = made(tmp_path, {2: [("drop", site) for site in sites]})
    enrol.run(context)
    with pytest.raises(StudyStopped, match=words):
        train.run(context, MIM)
    assert len(trained(events)) == 2


def test_nobody_left_who_trains_this(tmp_path: Path) -> None:
    study = targets(3, mim={"rounds": 4, "epochs": 1, "participants": ["site1"]})
    context, _, _ = made(tmp_path, {})
    enrol.run(context)
    note(tmp_path, "dropped", "site1")
    with pytest.raises(StudyStopped, match=r"mim/mim: every site that trains here was dropped"):
        train.run(context, make_plan(study).trainings["mim/mim"])


def test_a_late_one_is_not_waited_for(tmp_path: Path) -> None:
    context, _, _ = made(tmp_path, {}, ("source",))
    question = Question("query", "enrol", metrics=ENROL)
    found = list(context.exchange.enrol(question, ("site0", "site1"), wait_s=0, least=0))
    assert [answer.site for answer in found if not isinstance(answer, Refusal)] == ["source"]
