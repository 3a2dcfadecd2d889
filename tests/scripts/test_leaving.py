"""Whole studies in which a site leaves: they end, and say what it took part in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study
from common.formats import read_events, read_results
from scripts.simulate import Engine, run_study_here
from server import tracking
from server.attendance import note
from server.context import StudyStopped
from server.report import write_report
from tests.tiny import choosing, tiny, weights_of

Told = dict[str, Any]
When = Callable[[Told], bool]


def with_change(
    monkeypatch: pytest.MonkeyPatch, change: str, site: str, when: When, reason: str = ""
) -> None:
    """Note a change as soon as the server tells a certain event."""
    emit = tracking.JsonLines.emit

    def telling(self: tracking.JsonLines, event: str, **fields: Any) -> None:
        emit(self, event, **fields)
        if when({"event": event, **fields}):
            note(self.path.parent, "dropped" if change == "drop" else "added", site, reason)

    monkeypatch.setattr(tracking.JsonLines, "emit", telling)


def round_of(training: str, number: int) -> When:
    return lambda told: (
        told["event"] == "round" and told["training"] == training and told["round"] == number
    )


def run_of(study: Study, folder: Path) -> Path:
    return run_study_here(study, Engine.inprocess, folder, folder / "run", resume=True)


def segmenting() -> Study:
    return tiny(arms=["mim", "lower"], mim={"rounds": 3, "epochs": 1})


def test_a_target_leaves_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_change(monkeypatch, "drop", "west", round_of("mim/mim", 2), "its machine is replaced")
    run = run_of(segmenting(), tmp_path)
    events = read_events(run / "metrics.jsonl")
    rounds = [e.sites for e in events if e.event == "round" and e.training == "mim/mim"]
    assert rounds == [["east", "west"], ["east", "west"], ["east"]]
    results = read_results(run / "results.json")
    assert set(results.arms["mim"].sites) == {"north", "east"}
    (told,) = [words for words in results.notes if words.startswith("west: dropped on ")]
    assert told.endswith(
        "UTC (its machine is replaced). It took part in rounds 1-2 of 3 of mim/mim; it was not "
        "evaluated."
    )
    assert "rounds 1-2 of 3 of mim/mim" in (run / "report.html").read_text()
    # Of it counts what it did: the bytes too.
    assert results.traffic.sites["west"].up > 0


def test_where_it_is_noted_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two rounds of one run, or of a run that was stopped there and goes on."""
    with monkeypatch.context() as patched:
        with_change(patched, "drop", "west", round_of("mim/mim", 1))
        straight = run_of(segmenting(), tmp_path / "a")
    when = round_of("mim/mim", 1)
    emit = tracking.JsonLines.emit

    def stop(self: tracking.JsonLines, event: str, **fields: Any) -> None:
        emit(self, event, **fields)
        if when({"event": event, **fields}):
            raise StudyStopped("stopped by the coordinator")

    with monkeypatch.context() as patched:
        patched.setattr(tracking.JsonLines, "emit", stop)
        with pytest.raises(StudyStopped):
            run_of(segmenting(), tmp_path / "b")
    note(tmp_path / "b" / "run", "dropped", "west")
    assert weights_of(run_of(segmenting(), tmp_path / "b")) == weights_of(straight)


def test_a_target_comes_back_for_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_change(monkeypatch, "drop", "west", round_of("mim/mim", 1))
    with_change(monkeypatch, "add", "west", round_of("lower/lower", 1))
    run = run_of(segmenting(), tmp_path)
    results = read_results(run / "results.json")
    assert set(results.arms["mim"].sites) == {"north", "east", "west"}
    (told,) = [words for words in results.notes if words.startswith("west: dropped on ")]
    assert "; added on " in told
    assert told.endswith("It took part in round 1 of 3 of mim/mim; it was evaluated.")


def test_a_run_that_stopped_for_want_of_sites_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_change(monkeypatch, "drop", "north", round_of("mim/mim", 2))
    with pytest.raises(StudyStopped, match="every source of the study was dropped"):
        run_of(segmenting(), tmp_path)
    write_report(tmp_path / "run")
    monkeypatch.undo()
    note(tmp_path / "run", "added", "north")
    assert (run_of(segmenting(), tmp_path) / "results.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("when", "chose"),
    [
        (lambda told: told.get("step") == "redraw" and told["site"] == "west", False),
        (lambda told: told.get("step") == "cluster", False),
        (lambda told: told.get("step") == "quota" and told["site"] == "west", True),
        (lambda told: told.get("stage") == "annotate", True),
        (lambda told: told.get("stage") == "classify", True),
    ],
    ids=["redrawing", "clustering", "chosen", "annotated", "classifying"],
)
def test_a_choice_goes_on_without_a_target(
    when: When, chose: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_change(monkeypatch, "drop", "west", when)
    # Enough that each target has images to train on in every arm.
    run = run_of(choosing(select={"budgets": [0.8]}), tmp_path)
    results = read_results(run / "results.json")
    assert results.selection is not None
    (dual, *_) = results.selection.selected
    assert set(dual.pool) == ({"east", "west"} if chose else {"east"})
    assert set(results.selection.test) == {"east"}
    assert any(words.startswith("west: dropped on ") for words in results.notes)
    assert json.loads((run / "state/choosing.json").read_text())["closed"]
