"""Waiting for a run, while the SuperLink is not always at its best."""

from pathlib import Path

import pytest

from scripts.study import submit
from server.consortium.control import SuperLinkAway
from tests.scripts.study.superlinks import played, runs


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.01)


def test_errors_that_pass_do_not_end_the_wait(tmp_path: Path) -> None:
    answers = [
        (500, b""), (200, runs((7, "running", ""))), (503, b"busy"), (500, b""),
        (200, runs((7, "finished", "completed"))),
    ]  # fmt: skip
    with played(tmp_path / "center", lambda path: answers.pop(0)) as place:
        state = submit.wait(place, 7, patience_s=60)
    assert (state.over, state.outcome) == (True, "completed")
    assert answers == []


def test_errors_that_stay_end_it_with_a_sentence(tmp_path: Path) -> None:
    with (
        played(tmp_path / "center", lambda path: (500, b"")) as place,
        pytest.raises(SuperLinkAway, match=r"answers with an error \(500\); see superlink.log"),
    ):
        submit.wait(place, 7, patience_s=0.2)
