"""The live table and the lines, from events as a run writes them."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.config.load import load_study
from common.config.study import Study
from common.plan import make_plan
from scripts import live
from scripts.live import Live, Steps, Tail
from scripts.progress import Progress, clock
from tests.scripts.conftest import write_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write_study(tmp_path / "mini.toml", '["mim", "lower"]'))


def enrol(site: str, images: int = 8) -> dict[str, Any]:
    counts = {"images": 12, "train_images": images, "val_images": 2, "test_images": 2}
    return {"event": "enrol", "site": site, "counts": counts, "unit": "patient"}


def reply(
    training: str, site: str, round_: int, rounds: int, seconds: float = 2.0
) -> dict[str, Any]:
    return {
        "event": "reply", "training": training, "site": site, "round": round_, "rounds": rounds,
        "loss": 0.5, "bytes_down": 3_000_000, "bytes_up": 1_000_000, "seconds": seconds,
    }  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_share_and_time_left(study: Study) -> None:
    clock_ = Clock()
    progress = Progress(make_plan(study), clock_)
    for site in ("ada", "bo"):
        progress.take(enrol(site))
    progress.begin()
    assert progress.share == 0
    assert progress.left_s is None
    clock_.now = 10.0
    progress.take(reply("mim/mim", "bo", 1, 2))
    one = progress.share
    assert 0 < one < 1
    assert progress.left_s == pytest.approx(10 * (1 - one) / one)
    progress.take(reply("mim/mim", "bo", 1, 2))  # a round repeated after a kill counts once
    assert progress.share == one
    for event in (
        reply("mim/mim", "bo", 2, 2), reply("mim/finetune_mim", "ada", 1, 1),
        reply("lower/lower", "ada", 1, 1),
    ):  # fmt: skip
        progress.take(event)
    for member, sites in make_plan(study).predictors.items():
        for site in sites:
            progress.take(
                {"event": "predict", "member": member, "site": site, "bytes_down": 5,
                 "seconds": 1.0}
            )  # fmt: skip
    row = progress.rows["ada", "evaluate"]
    assert (row.round, row.rounds, row.done, row.bytes) == (2, 2, True, 10)
    assert progress.share == pytest.approx(1.0)
    assert progress.left_s == pytest.approx(0.0, abs=1e-9)


def test_epochs_move_the_share_between_rounds(study: Study) -> None:
    longer = study.model_copy(update={"mim": study.mim.model_copy(update={"epochs": 4})})
    progress = Progress(make_plan(longer))
    for site in ("ada", "bo"):
        progress.take(enrol(site))
    shares = []
    for epoch in (1, 2, 3):
        line = {"training": "mim/mim", "round": 1, "epoch": epoch, "loss": 1.0 / epoch}
        row = progress.take_epoch("bo", line)
        assert row is not None
        assert (row.epoch, row.epochs, row.done) == (epoch, 4, False)
        shares.append(progress.share)
    assert shares == sorted(set(shares))
    progress.take(reply("mim/mim", "bo", 1, 2))
    assert progress.share > shares[-1]
    late = {"training": "mim/mim", "round": 1, "epoch": 4, "loss": 0.2}
    assert progress.take_epoch("bo", late) is None


def test_what_was_done_before_a_resume_sets_no_pace(study: Study) -> None:
    clock_ = Clock()
    progress = Progress(make_plan(study), clock_)
    for event in (enrol("ada"), enrol("bo"), reply("mim/mim", "bo", 1, 2)):
        progress.take(event)
    clock_.now = 100.0
    progress.begin()
    assert progress.share > 0
    assert progress.left_s is None
    assert progress.moved == 0


def test_an_adaptation_that_stopped_early_is_over(tmp_path: Path) -> None:
    study = load_study(
        write_study(tmp_path / "mini.toml", '["ensemble_adapted", "lower"]'), ["adapt.rounds=5"]
    )
    progress = Progress(make_plan(study))
    progress.take(reply("ensemble_adapted/adapt", "bo", 1, 5))
    before = progress.share
    progress.take(reply("lower/lower", "ada", 1, 1))
    adapt = 4 * progress._size(make_plan(study).trainings["ensemble_adapted/adapt"], "bo")
    assert progress.share - before > adapt / progress.total_work()


def test_times() -> None:
    assert [clock(s) for s in (3.4, 61, 3599, 7260)] == ["3 s", "1:01 min", "59:59 min", "2:01 h"]


def test_half_a_line_waits(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "a.jsonl")
    assert list(tail.lines()) == []
    tail.path.write_text('{"a": 1}\n{"a"')
    assert list(tail.lines()) == [{"a": 1}]
    with tail.path.open("a") as file:
        file.write(": 2}\n")
    assert list(tail.lines()) == [{"a": 2}]


def test_plain_lines(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    refusal = {
        "event": "refused", "training": "mim/mim", "round": 1, "site": "bo", "reason": "[late]",
    }  # fmt: skip
    round_ = {
        "event": "round", "training": "lower/lower", "stage": "lower", "round": 1, "rounds": 1,
        "val_loss": 1.25,
    }  # fmt: skip
    with Live(tmp_path, study), path.open("a") as file:
        for event in (enrol("ada"), refusal, reply("lower/lower", "ada", 1, 1), round_):
            file.write(json.dumps(event) + "\n")
    out = capsys.readouterr().out
    assert "enrolled ada: 12 images, split by patient (8 train, 2 validation, 2 test)" in out
    assert "bo refused: [late]" in out
    assert "round 1/1  loss 0.5000  4.0 MB  2 s" in out
    assert "validation DiceBCE 1.2500" in out


def test_the_table(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=110, height=30)
    monkeypatch.setattr(live, "console", screen)
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    with Live(tmp_path, study) as shown:
        with path.open("a") as file:
            for event in (enrol("ada"), enrol("bo"), reply("mim/mim", "bo", 1, 2)):
                file.write(json.dumps(event) + "\n")
        epochs = tmp_path / "sites" / "bo" / "epochs.jsonl"
        epochs.parent.mkdir(parents=True)
        epochs.write_text(
            json.dumps({"training": "mim/mim", "round": 2, "epoch": 1, "loss": 0.4}) + "\n"
        )
        shown.done.set()
        shown.thread.join()
        with screen.capture() as capture:
            screen.print(shown.render())
    text = capture.get()
    for word in ("site", "MB moved", "mim/mim", "1/2", "0.5000", "4.0", "elapsed", "mini · seed 0"):
        assert word in text


def experts(study: Study) -> list[dict[str, Any]]:
    """A run that began an hour ago and has waited for experts since half an hour."""
    now = datetime.now(UTC)
    events = [
        {"event": "study"}, enrol("ada"), enrol("bo"), reply("mim/mim", "bo", 1, 2),
        {"event": "waiting", "stage": "annotate", "sites": {"bo": "12 of 40 (dual, 20 %)"}},
    ]  # fmt: skip
    minutes = (60, 50, 50, 40, 30)
    return [
        {**event, "time": (now - timedelta(minutes=ago)).isoformat()}
        for event, ago in zip(events, minutes, strict=True)
    ]


def test_whoever_looks_later_sees_how_it_stands(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(event) + "\n" for event in experts(study)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines))
    with Live(tmp_path, study, lambda: {"bo": "2026-11-22 19:56, connected"}):
        pass
    out = capsys.readouterr().out
    assert "bo: last seen 2026-11-22 19:56, connected; mim/mim round 1/2 at " in out
    assert "waited for: 12 of 40 (dual, 20 %) (since " in out
    assert "ada:  enrolled at " in out or "ada: enrolled at " in out
    assert "waits for experts since" in out
    # While it works on, what it has done says when it will have ended.
    path.write_text("".join(lines[:-1]))
    with Live(tmp_path, study, dict):
        pass
    out = capsys.readouterr().out
    assert re.search(r"\d+% done, about .* left, until 20", out)


def test_the_table_of_a_consortium(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=150, height=40)
    monkeypatch.setattr(live, "console", screen)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in experts(study)))
    with (
        Live(tmp_path, study, lambda: {"bo": "2026-11-22 19:56"}) as shown,
        screen.capture() as capture,
    ):
        screen.print(shown.render())
    text = capture.get()
    for word in ("last seen", "2026-11-22 19:56", "mim/mim round 1/2", "12 of 40", "1/2"):
        assert word in text
    # The center does not see epochs.
    assert "epoch" not in text


def test_steps_say_nothing_of_what_takes_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps().step("reading ada"):
        pass
    assert capsys.readouterr().out == ""
    with Steps().step("reading ada") as progress:
        progress(1, 12)
        progress(12, 12)
    assert "reading ada: 12 done in 0 s" in capsys.readouterr().out
