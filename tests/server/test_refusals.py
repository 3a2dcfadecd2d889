"""What the server does with replies that are not what was asked for."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from common.plan import Training, make_plan
from common.wire.records import ERROR_FAILED, INSTRUCTION, METRICS, WEIGHTS
from server import app as server_app
from server.context import StudyStopped
from server.exchange import Question, Refusal
from server.stages import train
from tests.played import Events, Play, PlayedGrid, honest_content, server_of
from tests.tiny import targets

STUDY = targets(2, federation={"quorum": 0.5})
MIM = make_plan(STUDY).trainings["mim/mim"]
NAMES = list(honest_content(STUDY, MIM, 0.0).array_records[WEIGHTS])
FIRST, LAST = NAMES[0], NAMES[-1]
Spoil = Callable[[RecordDict], None]


def arrays(content: RecordDict) -> ArrayRecord:
    return content.array_records[WEIGHTS]


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(content: RecordDict) -> None:
        arrays(content)[name] = Array(change(arrays(content)[name].numpy()))

    return spoil


def set_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[-1] = value
        return array

    return change


def without(content: RecordDict) -> None:
    del arrays(content)[FIRST]


def with_extra(content: RecordDict) -> None:
    arrays(content)["patient_scan"] = Array(np.zeros((8, 8), np.float32))


def reordered(content: RecordDict) -> None:
    content[WEIGHTS] = ArrayRecord(OrderedDict(reversed(list(arrays(content).items()))))


def disguised(content: RecordDict) -> None:
    """Bytes that claim the right dtype and shape, but hold something else."""
    honest = arrays(content)[FIRST]
    data = Array(np.zeros(honest.shape, np.uint8)).data
    arrays(content)[FIRST] = Array(honest.dtype, honest.shape, honest.stype, data)


def pickled(content: RecordDict) -> None:
    honest = arrays(content)[FIRST]
    arrays(content)[FIRST] = Array(honest.dtype, honest.shape, honest.stype, b"\x80\x04N.")


def metric(name: str, value: float | int | list[float]) -> Spoil:
    def spoil(content: RecordDict) -> None:
        content.metric_records[METRICS][name] = value

    return spoil


def without_metric(content: RecordDict) -> None:
    del content.metric_records[METRICS]["loss"]


def without_weights(content: RecordDict) -> None:
    del content[WEIGHTS]


SPOILT: dict[str, tuple[Spoil, str]] = {
    "NaN": (put(FIRST, set_one(np.nan)), FIRST),
    "infinity": (put(LAST, set_one(np.inf)), LAST),
    "shape": (put(FIRST, lambda a: a[..., None]), FIRST),
    "dtype": (put(LAST, lambda a: a.astype(np.float64)), LAST),
    "integers": (put(FIRST, lambda a: a.astype(np.int32)), FIRST),
    "disguised": (disguised, FIRST),
    "pickled": (pickled, FIRST),
    "missing": (without, f"{FIRST}: missing"),
    "extra": (with_extra, "'patient_scan': unexpected"),
    "order": (reordered, "out of order"),
    "no weights": (without_weights, "no weights"),
    "unknown metric": (metric("age", 61.0), "metric 'age': unexpected"),
    "missing metric": (without_metric, "metric loss: missing"),
    "NaN metric": (metric("loss", float("nan")), "metric loss"),
    "list metric": (metric("loss", [0.5, 0.5]), "metric loss"),
    "float count": (metric("examples", 3.5), "metric examples"),
    "no examples": (metric("examples", 0), "metric examples"),
    "unknown record": (lambda c: c.__setitem__("notes", ConfigRecord({"a": "b"})), "record"),
    "second weights": (lambda c: c.__setitem__("more", ArrayRecord()), "record"),
    "second metrics": (lambda c: c.__setitem__("more", MetricRecord({"a": 1})), "record"),
}


def one_round(run: Path, spoil: Spoil | None, quorum: float = 0.5) -> tuple[Events, torch.Tensor]:
    """A round in which site0 sends 1s and site1 3s, spoilt or not at all."""
    study = targets(2, federation={"quorum": quorum, "deadline_s": 0.3})

    def play(site: str, message: Message) -> Message | None:
        content = honest_content(study, MIM, 1.0 if site == "site0" else 3.0)
        if site == "site1":
            if spoil is None:
                return None
            spoil(content)
        return Message(content, reply_to=message)

    context, events = server_of(study, run, PlayedGrid(study.sites, play))
    train.run(context, MIM)
    return events, context.result(MIM.key)[FIRST]


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_reply_is_refused_by_name_and_the_round_goes_on(case: str, tmp_path: Path) -> None:
    spoil, named = SPOILT[case]
    events, weights = one_round(tmp_path, spoil)
    (refused,) = events.named("refused")
    assert refused["site"] == "site1"
    assert refused["training"] == "mim/mim"
    assert named in refused["reason"]
    (done,) = events.named("round")
    assert done["sites"] == ["site0"]
    assert list(done["refused"]) == ["site1"]
    assert torch.equal(weights, torch.ones_like(weights))


def test_without_a_quorum_the_study_stops_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped) as stopped:
        one_round(tmp_path, SPOILT["NaN"][0], quorum=1.0)
    text = str(stopped.value)
    assert "mim/mim, round 1" in text
    assert "site1" in text
    assert FIRST in text
    assert not (tmp_path / "state").exists()


def test_a_silent_site_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    events, weights = one_round(tmp_path, None)
    (refused,) = events.named("refused")
    assert "deadline" in refused["reason"]
    assert torch.equal(weights, torch.ones_like(weights))


def test_of_a_sites_error_only_the_code_is_told(tmp_path: Path) -> None:
    def play(site: str, message: Message) -> Message:
        if site == "site1":
            reason = "FileNotFoundError: /data/Jane Doe/scan.png"
            return Message(Error(code=ERROR_FAILED, reason=reason), reply_to=message)
        return Message(honest_content(STUDY, MIM, 1.0), reply_to=message)

    context, events = server_of(STUDY, tmp_path, PlayedGrid(STUDY.sites, play))
    train.run(context, MIM)
    (refused,) = events.named("refused")
    assert refused["reason"] == "its training failed (code 1003)"
    assert "Jane" not in str(events.seen)


def test_arrival_changes_no_bit(tmp_path: Path) -> None:
    study = targets(3, compute={"batch": 2, "jobs": 3})
    training = make_plan(study).trainings["mim/mim"]

    def result(folder: str, late: tuple[str, ...]) -> tuple[list[str], dict[str, torch.Tensor]]:
        def play(site: str, message: Message) -> Message:
            value = {"site0": 0.1, "site1": 1.37, "site2": -0.73}[site]
            content = honest_content(study, training, value, examples=int(site[-1]) + 3)
            return Message(content, reply_to=message)

        grid = PlayedGrid(study.sites, play, late)
        context, _ = server_of(study, tmp_path / folder, grid)
        train.run(context, training)
        return grid.pulled, dict(context.result(training.key))

    order, straight = result("straight", ())
    late_order, late = result("late", ("site0", "site1"))
    assert order == late_order == ["site0", "site1", "site2"]
    assert all(torch.equal(straight[name], late[name]) for name in straight)


def test_half_precision_overflow_is_refused_as_infinity(tmp_path: Path) -> None:
    study = targets(2, wire={"dtype": "float16"}, federation={"quorum": 0.5})
    training: Training = make_plan(study).trainings["mim/mim"]

    def play(site: str, message: Message) -> Message:
        content = honest_content(study, training, 1.0 if site == "site0" else 1e6)
        return Message(content, reply_to=message)

    context, events = server_of(study, tmp_path, PlayedGrid(study.sites, play))
    train.run(context, training)
    (refused,) = events.named("refused")
    assert "NaN or infinity" in refused["reason"]


def test_who_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that does not come, and one that does not answer: neither in silence."""
    monkeypatch.setattr(server_app, "TELL_S", 0.05)
    study = targets(2, federation={"deadline_s": 0.6})
    said: list[tuple[str, dict[str, str]]] = []
    grid = PlayedGrid(["site0"], lambda site, message: None)
    exchange = server_app.GridExchange(
        grid, study, 1, waiting=lambda stage, sites: said.append((stage, dict(sites)))
    )
    question = Question("query", "enrol")
    (refusal,) = exchange.enrol(question, tuple(study.sites), wait_s=0.6, least=3)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "silent"
    assert any(stage == "enrol" and "asked 0 min ago" in str(sites) for stage, sites in said)
    exchange.grid = PlayedGrid([], lambda site, message: None)
    assert list(exchange.enrol(question, tuple(study.sites), wait_s=0.6, least=3)) == []
    assert ("enrol", dict.fromkeys(study.sites, "is not here yet")) in said


class Flaky(PlayedGrid):
    """A grid that loses a site for a while: Flower answers in its place, with a code."""

    def __init__(self, site: str, codes: list[int], looks: int, play: Play) -> None:
        super().__init__(STUDY.sites, play)
        self.site, self.codes, self.looks = site, codes, looks
        self.away = False
        self.asked: list[tuple[str, float]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        site = self.sites[message.metadata.dst_node_id]
        self.asked.append((site, message.metadata.ttl))
        (message_id,) = super().push_messages([message])
        if site == self.site and self.codes:
            error = Error(self.codes.pop(0), "not here")
            self.replies[message_id] = Message(error, reply_to=message)
            self.away = True
        return [message_id]

    def get_node_ids(self) -> Iterable[int]:
        """Not there for so many looks after it was lost."""
        self.looks -= self.away
        nodes = set(super().get_node_ids())
        if self.looks > 0:
            return {node for node in nodes if self.sites[node] != self.site}
        return nodes


def honest(site: str, message: Message) -> Message:
    return Message(honest_content(STUDY, MIM, 1.0 if site == "site0" else 2.0), reply_to=message)


def test_a_site_that_has_gone_away_is_asked_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all are needed. The weights are those of the undisturbed round."""
    monkeypatch.setattr(server_app, "POLL_S", 0.01)
    study = targets(2)

    def result(name: str, grid: PlayedGrid) -> dict[str, torch.Tensor]:
        context, events = server_of(study, tmp_path / name, grid)
        train.run(context, MIM)
        assert not events.named("refused")
        return dict(context.result(MIM.key))

    flaky = Flaky("site0", [5, 3, 4], 3, honest)
    disturbed = result("disturbed", flaky)
    straight = result("straight", PlayedGrid(study.sites, honest))
    assert all(torch.equal(disturbed[name], straight[name]) for name in straight)
    assert [site for site, _ in flaky.asked[:5]] == ["site0"] * 4 + ["site1"]
    # Each time with what is left of its time.
    ttls = [ttl for site, ttl in flaky.asked if site == "site0"][:4]
    assert ttls == sorted(ttls, reverse=True)
    assert ttls[-1] < ttls[0]


def test_a_site_that_has_gone_away_is_not_waited_for_where_the_others_suffice(
    tmp_path: Path,
) -> None:
    flaky = Flaky("site0", [5], 1000, honest)
    context, events = server_of(STUDY, tmp_path, flaky)
    train.run(context, MIM)
    (refused,) = events.named("refused")
    assert refused["site"] == "site0"
    assert refused["reason"] == "it is not connected (code 5)"


def test_one_that_stays_away_is_waited_for_until_the_deadline_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_app, "TELL_S", 0.05)
    monkeypatch.setattr(server_app, "POLL_S", 0.01)
    said: list[dict[str, str]] = []
    study = targets(2, federation={"deadline_s": 5.0})
    flaky = Flaky("site0", [5], 10**6, honest)
    context, _ = server_of(study, tmp_path, flaky)
    assert isinstance(context.exchange, server_app.GridExchange)
    context.exchange.waiting = lambda stage, sites: said.append(dict(sites))
    with pytest.raises(StudyStopped, match=r"site0: it is not connected \(code 5\)"):
        train.run(context, MIM)
    assert any("is not connected" in sites["site0"] for sites in said)
    assert [site for site, _ in flaky.asked].count("site0") == 1


class Offline(PlayedGrid):
    """A site is off in some rounds: Flower answers in its place, and does not list it."""

    def __init__(self, site: str, rounds: range, play: Play) -> None:
        super().__init__(STUDY.sites, play)
        self.site, self.rounds, self.round = site, rounds, 1

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        record = message.content.config_records[INSTRUCTION]
        self.round = int(str(record["round"]))
        (message_id,) = super().push_messages([message])
        if self.sites[message.metadata.dst_node_id] == self.site and self.round in self.rounds:
            self.replies[message_id] = Message(Error(5, "not here"), reply_to=message)
        return [message_id]


@pytest.mark.parametrize("quorum", [0.5, 1.0])
def test_a_site_is_offline_for_some_rounds_and_back(tmp_path: Path, quorum: float) -> None:
    """With a quorum the others go on, and the weights are theirs alone; without, all stop."""
    study = targets(2, mim={"rounds": 6, "epochs": 1}, federation={"quorum": quorum,
                    "deadline_s": 0.3})  # fmt: skip
    training = make_plan(study).trainings["mim/mim"]

    def play(site: str, message: Message) -> Message:
        value = 1.0 if site == "site0" else 3.0
        return Message(honest_content(study, training, value), reply_to=message)

    grid = Offline("site1", range(2, 5), play)
    context, events = server_of(study, tmp_path, grid)
    if quorum == 1.0:
        with pytest.raises(StudyStopped, match=r"mim/mim, round 2: .*site1: it is not connected"):
            train.run(context, training)
        grid.rounds = range(0)
        train.run(context, training)  # as a resumed run does
        expected = [["site0", "site1"]] * 6
        assert not context.run.checkpoint(training.key).load(training.key).missed
    else:
        train.run(context, training)
        expected = [["site0", "site1"], *[["site0"]] * 3, *[["site0", "site1"]] * 2]
        refused = [(event["round"], event["site"]) for event in events.named("refused")]
        assert refused == [(2, "site1"), (3, "site1"), (4, "site1")]
        record = context.run.checkpoint(training.key).load(training.key)
        assert record.missed == {"site1": [2, 3, 4]}
        assert record.took_part["site1"] == [1, 5, 6]
    assert [event["sites"] for event in events.named("round")] == expected
    weights = context.result(training.key)[FIRST]
    assert torch.equal(weights, torch.full_like(weights, 2.0))
