"""A whole study that a target begins late: the quorum goes on, and the results say so."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from common.formats import read_events, read_results
from scripts.engines.inprocess import InProcessGrid
from scripts.simulate import Engine, run_study_here
from server import tracking
from tests.tiny import tiny


@pytest.mark.parametrize("comes", [True, False])
def test_a_target_that_is_not_there_when_the_study_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    there = False
    emit = tracking.JsonLines.emit
    nodes = InProcessGrid.get_node_ids

    def telling(self: tracking.JsonLines, event: str, **fields: Any) -> None:
        nonlocal there
        emit(self, event, **fields)
        there = there or (comes and event == "round")

    def listing(self: InProcessGrid) -> Iterable[int]:
        return [node for node in nodes(self) if there or self.sites[node] != "west"]

    monkeypatch.setattr(tracking.JsonLines, "emit", telling)
    monkeypatch.setattr(InProcessGrid, "get_node_ids", listing)
    study = tiny(
        arms=["mim", "lower"], mim={"rounds": 3, "epochs": 1},
        federation={"quorum": 0.5, "deadline_s": 1.0},
    )  # fmt: skip
    run = run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "run", resume=True)
    events = read_events(run / "metrics.jsonl")
    rounds = [e.sites for e in events if e.event == "round" and e.training == "mim/mim"]
    moves = [(e.change, e.site) for e in events if e.event == "site"]
    results = read_results(run / "results.json")
    (told,) = [words for words in results.notes if words.startswith("west: away on ")]
    if comes:
        assert rounds == [["east"], ["east", "west"], ["east", "west"]]
        assert moves == [("away", "west"), ("back", "west")]
        assert set(results.arms["mim"].sites) == {"north", "east", "west"}
        assert told.endswith("It took part in rounds 2-3 of 3 of mim/mim; it was evaluated.")
        assert "mim/mim: without west in round 1 of 3" in results.notes
    else:
        assert rounds == [["east"]] * 3
        assert set(results.arms["mim"].sites) == {"north", "east"}
        assert told.endswith("It took part in no round of mim/mim; it was not evaluated.")
        words = "evaluate: without west (it is not here); the figures are of the others"
        assert words in results.notes
    assert "west: away on" in (run / "report.html").read_text(encoding="utf-8")
    if not comes:
        there = True
        run_study_here(study, Engine.inprocess, tmp_path, run, resume=True)
        results = read_results(run / "results.json")
        assert set(results.arms["mim"].sites) == {"north", "east", "west"}
        assert not [words for words in results.notes if words.startswith("evaluate: without")]
