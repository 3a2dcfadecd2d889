"""The study waits for experts, visibly, and goes on by itself; played sites answer in counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message

from common.config.study import Study
from common.wire.records import ERROR_INPUT, INSTRUCTION, Instruction, pack
from server.checkpoint import RunFolder
from server.context import ServerContext, StudyStopped
from server.stages import annotate
from tests.clients.chosen import study_of
from tests.played import Events, PlayedGrid, server_of

WANTED = {"entropy.20": 2, "entropy.50": 5, "random.20": 2, "random.50": 5}


def counts(have: dict[str, int]) -> dict[str, int]:
    """A site's answer: what is wanted, and what it has (all of it where nothing is said)."""
    found: dict[str, int] = {}
    for stem, wanted in WANTED.items():
        found |= {f"{stem}.wanted": wanted, f"{stem}.annotated": have.get(stem, wanted)}
    return found


class Hospital:
    """Two targets whose experts get on as `progress` says; they note what they are asked."""

    def __init__(self, progress: dict[str, list[dict[str, int]]]) -> None:
        self.progress = progress
        self.asked: list[tuple[str, str]] = []
        self.looks = dict.fromkeys(progress, 0)

    def __call__(self, site: str, message: Message) -> Message:
        step = Instruction.from_record(message.content.config_records[INSTRUCTION]).step
        self.asked.append((site, step))
        states = self.progress[site]
        have = states[min(self.looks[site], len(states) - 1)]
        if step != "close":
            self.looks[site] += 1
        metrics = counts(have)
        return Message(pack(metrics=metrics), reply_to=message)


def server(
    run: Path, play: Callable[[str, Message], Message | None], **settings: Any
) -> tuple[ServerContext, Events]:
    study: Study = study_of(**settings)
    return server_of(study, run, PlayedGrid(study.sites, play))


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeping takes no time here, and is noted."""
    taken: list[float] = []
    monkeypatch.setattr("time.sleep", taken.append)
    return taken


def waits(events: Events) -> list[dict[str, str]]:
    return [event["sites"] for event in events.named("waiting")]


def test_a_simulation_does_not_wait(tmp_path: Path, naps: list[float]) -> None:
    hospital = Hospital({"bo": [{}], "cy": [{}]})
    context, events = server(tmp_path, hospital)
    annotate.run(context)
    assert hospital.asked == [("bo", ""), ("cy", ""), ("bo", "close"), ("cy", "close")]
    assert annotate.annotated(context, "entropy", 0.5) == {"bo": 5, "cy": 5}
    assert annotate.annotated(context, "random", 0.2) == {"bo": 2, "cy": 2}
    assert not waits(events)
    assert not naps
    assert [(e["stage"], e["step"], e["site"]) for e in events.named("step")] == [
        ("annotate", "close", "bo"), ("annotate", "close", "cy"),
    ]  # fmt: skip


def test_it_waits_and_tells_what_changes(tmp_path: Path, naps: list[float]) -> None:
    slow = [{"entropy.50": 1, "random.50": 4}] * 3 + [{"entropy.50": 3}] * 2 + [{}]
    hospital = Hospital({"bo": slow, "cy": [{"random.20": 1}, {}]})
    context, events = server(tmp_path, hospital, labels="file", poll_s=7.0)
    annotate.run(context)
    assert waits(events) == [
        {"bo": "1 of 5 (entropy, 50 %)", "cy": "1 of 2 (random, 20 %)"},
        {"bo": "1 of 5 (entropy, 50 %)"},
        {"bo": "3 of 5 (entropy, 50 %)"},
    ]
    assert naps == [7.0, 7.0, 10.5, 7.0, 10.5]  # it looks less often while nothing changes
    assert annotate.annotated(context, "entropy", 0.5) == {"bo": 5, "cy": 5}


@pytest.mark.parametrize(("enough", "have", "goes_on"), [
    (0.6, 3, True), (0.61, 3, False), (1.0, 5, True), (1.0, 4, False), (0.01, 0, False),
])  # fmt: skip
def test_enough_is_a_share_of_every_selection(
    tmp_path: Path, enough: float, have: int, goes_on: bool
) -> None:
    context, _ = server(tmp_path, Hospital({"bo": [{"entropy.50": have}], "cy": [{}]}),
                        enough=enough)  # fmt: skip
    if goes_on:
        annotate.run(context)
        assert annotate.annotated(context, "entropy", 0.5) == {"bo": have, "cy": 5}
        return
    with pytest.raises(StudyStopped) as caught:
        annotate.run(context)
    assert f"bo: {have} of 5 (entropy, 50 %)" in str(caught.value)
    assert "too few labels to play the experts" in str(caught.value)


def test_a_site_that_was_asked_for_nothing_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WANTED, "entropy.20", 0)
    context, _ = server(tmp_path, Hospital({"bo": [{}], "cy": [{}]}))
    annotate.run(context)
    assert annotate.annotated(context, "entropy", 0.2) == {"bo": 0, "cy": 0}


def test_a_stopped_study_goes_on_and_a_settled_one_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it waits; then the same run again, and once more after it is done."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    context, _ = server(tmp_path, Hospital({"bo": [{"entropy.50": 1}], "cy": [{}]}), labels="file")
    with pytest.raises(KeyboardInterrupt):
        annotate.run(context)
    state = RunFolder(tmp_path).read_state("annotate")
    assert state["counts"]["bo"]["entropy.50.annotated"] == 1
    assert state["closed"] == []
    context, _ = server(tmp_path, Hospital({"bo": [{}], "cy": [{}]}), labels="file")
    annotate.run(context)
    again = Hospital({"bo": [{}], "cy": [{}]})
    context, events = server(tmp_path, again, labels="file")
    annotate.run(context)
    assert again.asked == []
    assert not events.seen
    assert annotate.annotated(context, "entropy", 0.5) == {"bo": 5, "cy": 5}


def test_killed_between_two_closings(tmp_path: Path) -> None:
    """Who has closed is not asked again."""
    hospital = Hospital({"bo": [{}], "cy": [{}]})

    def dies(site: str, message: Message) -> Message:
        reply = hospital(site, message)
        if hospital.asked[-1] == ("cy", "close"):
            raise KeyboardInterrupt
        return reply

    context, _ = server(tmp_path, dies)
    with pytest.raises(KeyboardInterrupt):
        annotate.run(context)
    again = Hospital({"bo": [{}], "cy": [{}]})
    context, _ = server(tmp_path, again)
    annotate.run(context)
    closed = RunFolder(tmp_path).read_state("annotate")["closed"]
    assert sorted(closed) == ["bo", "cy"]
    assert ("cy", "close") in again.asked


def test_a_refusal_stops_the_study(tmp_path: Path) -> None:
    def refuse(site: str, message: Message) -> Message:
        return Message(Error(code=ERROR_INPUT, reason="secret"), reply_to=message)

    context, _ = server(tmp_path, refuse)
    with pytest.raises(StudyStopped, match="annotate: bo: its data are not what the study needs"):
        annotate.run(context)


class Clock:
    """Time passes while the study sleeps, and no faster."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0  # 2027-01-15 08:00 UTC
        self.naps: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def test_the_pause_grows_to_a_quarter_of_an_hour_and_begins_anew_when_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(annotate, "time", clock)
    idle = [{"entropy.50": 1}] * 700
    hospital = Hospital({"bo": [*idle, {"entropy.50": 2}, {"entropy.50": 2}, {}], "cy": [{}]})
    context, events = server(tmp_path, hospital, labels="file", poll_s=30.0)
    annotate.run(context)
    first = [30.0 * 1.5**n for n in range(9)]
    assert clock.naps[:9] == first
    assert set(clock.naps[9:700]) == {900.0}
    assert clock.naps[700:] == [30.0, 45.0]
    # A week is some 670 looks, where one every 30 s were 20,000.
    assert sum(clock.naps) > 7 * 24 * 3600
    assert len(waits(events)) == 2


def test_a_pause_longer_than_that_stays(tmp_path: Path, naps: list[float]) -> None:
    context, _ = server(
        tmp_path, Hospital({"bo": [{"entropy.50": 1}] * 3 + [{}], "cy": [{}]}),
        labels="file", poll_s=3600.0,
    )  # fmt: skip
    annotate.run(context)
    assert naps == [3600.0] * 3


def test_one_that_is_not_heard_is_waited_for_like_its_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away at looks 2 to 4, beyond every deadline, and again when all are to settle."""
    clock = Clock()
    monkeypatch.setattr(annotate, "time", clock)
    hospital = Hospital({"bo": [{"entropy.50": 1}] * 3 + [{}], "cy": [{}]})
    calls = 0

    def play(site: str, message: Message) -> Message | None:
        nonlocal calls
        step = Instruction.from_record(message.content.config_records[INSTRUCTION]).step
        if site == "cy":
            calls += 1
            if calls in (2, 3, 4) or (step == "close" and calls < 7):
                return Message(Error(5, "not here"), reply_to=message) if calls % 2 else None
        return hospital(site, message)

    monkeypatch.setattr(annotate, "LOOK_S", 0.2)
    context, events = server(tmp_path, play, labels="file", poll_s=60.0)
    annotate.run(context)
    assert waits(events) == [
        {"bo": "1 of 5 (entropy, 50 %)"},
        {"bo": "1 of 5 (entropy, 50 %)", "cy": "not heard since 2027-01-15 08:00 UTC"},
        {"cy": "not heard since 2027-01-15 08:00 UTC"},
    ]
    assert sorted(RunFolder(tmp_path).read_state("annotate")["closed"]) == ["bo", "cy"]
    assert annotate.annotated(context, "entropy", 0.5) == {"bo": 5, "cy": 5}


def test_where_no_experts_are_waited_for_silence_stops_the_study(tmp_path: Path) -> None:
    study = study_of()
    federation = study.federation.model_copy(update={"deadline_s": 0.2})
    study = study.model_copy(update={"federation": federation})
    context, _ = server_of(study, tmp_path, PlayedGrid(study.sites, lambda *_: None))
    with pytest.raises(StudyStopped, match="annotate: bo: no reply before the deadline"):
        annotate.run(context)
