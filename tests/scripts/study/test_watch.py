"""A study that waits says so to whoever asks, whenever that is."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config.load import load_study
from scripts.study.place import RUN_FILE
from scripts.study.seen import seen
from server.consortium import register as registers
from server.consortium.place import Place
from server.consortium.register import Site, now
from tests.scripts.conftest import Command, write_study
from tests.scripts.study.superlinks import nodes, played, runs

EVENTS: list[dict[str, Any]] = [
    {"event": "study", "digest": "ab" * 32},
    {"event": "reply", "training": "mim/mim", "site": "bo", "round": 1, "rounds": 2, "loss": 0.5,
     "bytes_down": 1, "bytes_up": 1, "seconds": 2.0},
    {"event": "waiting", "stage": "annotate", "sites": {"bo": "12 of 40 (dual, 20 %)"}},
]  # fmt: skip


def waiting_run(place: Place, folder: Path) -> Path:
    """A run that has waited for experts since 19:56 (UTC)."""
    study = load_study(write_study(folder / "mini.toml"))
    run = place.runs / "mini-ab"
    run.mkdir(parents=True)
    (run / "study.json").write_text(study.canonical())
    (run / RUN_FILE).write_text("7\n")
    lines = [
        json.dumps({**event, "time": f"2026-11-22T19:{54 + at}:00+00:00"})
        for at, event in enumerate(EVENTS)
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


@pytest.mark.parametrize("status", ["running", "finished"])
def test_list_says_whom_a_study_waits_for(
    tmp_path: Path, sonofed: Command, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    with played(tmp_path / "center", lambda _: (200, runs((7, status, "stopped")))) as place:
        waiting_run(place, tmp_path)
        said = sonofed("study", "list", "--consortium", place.root)
    assert said.code == 0
    words = "mini-ab waits in annotate since 2026-11-22 "
    assert (words in said.out) is (status == "running")
    assert ("bo 12 of 40 (dual, 20 %)" in said.out) is (status == "running")


def test_watch_says_it_however_late(tmp_path: Path, sonofed: Command) -> None:
    """Not only to whoever watched when it began to wait."""

    def answer(path: str) -> tuple[int, bytes]:
        return 200, nodes(bo="online") if path == "list-nodes" else runs((7, "finished", "failed"))

    with played(tmp_path / "center", answer) as place:
        with registers.changing(place) as register:
            register.sites["bo"] = Site(node_key="", admitted=now(), node_id=1)
            register.sites["cy"] = Site(node_key="", admitted=now(), node_id=2)
        waiting_run(place, tmp_path)
        assert seen(place)["bo"].endswith(", connected")
        assert seen(place)["cy"] == "never"
        said = sonofed("study", "watch", "--consortium", place.root)
    assert said.code == 1
    assert ", connected; mim/mim round 1/2 at " in said.out
    assert "waited for: 12 of 40 (dual, 20 %) (since 2026-11-22 " in said.out
    assert "waits for experts since 2026-11-22 " in said.out


def test_a_superlink_that_is_away_hides_nothing(tmp_path: Path) -> None:
    with played(tmp_path / "center", lambda _: (200, b"")) as place:
        pass
    assert seen(place) == {}


def test_a_bundle_is_approved_where_the_site_looks(tmp_path: Path, sonofed: Command) -> None:
    said = sonofed("study", "bundle", tmp_path / "sonofed.fab")
    assert said.code == 0
    assert "at each hospital: sonofed gate approve sonofed.fab --folder site/gate" in said.out
