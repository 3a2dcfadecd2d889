"""A simulation makes the ledgers that a hospital's gate would make, and they verify."""

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, Context, Message

from clients import app as site_app
from clients.exchanges import manifest_of
from common.config.load import load_study
from common.ledger_check import read, verify
from common.signing import read_public_key
from scripts.engines import ray
from scripts.simulate import Engine, run_study_here
from server.context import StudyStopped
from tests.scripts.conftest import Finished, write_study

SITES = ("ada", "bo")


def events(folder: Path, site: str) -> list[dict[str, Any]]:
    return [dict(line.event) for line in read(folder / "sites" / site / "ledger.jsonl")]


@pytest.mark.parametrize("site", SITES)
def test_a_runs_ledgers_verify_against_the_servers_receipts(finished: Finished, site: str) -> None:
    place = finished.folder / "sites" / site
    key = read_public_key(place / "ledger.key.pub")
    verdict = verify(place / "ledger.jsonl", key, finished.folder / "receipts.jsonl")
    assert verdict.problem is None, verdict.problem
    assert verdict.site == site
    replies = [event for event in events(finished.folder, site) if event["kind"] == "reply"]
    assert replies
    # Every reply arrived, byte for byte; no note says that one has no receipt.
    assert f"the server confirms {len(replies)} replies, byte for byte" in verdict.notes
    assert not any("no receipt" in note for note in verdict.notes)


def test_every_instruction_has_its_reply_and_is_in_the_manifest(finished: Finished) -> None:
    names = set(manifest_of(load_study(finished.study)).exchanges)
    seen = set()
    for site in SITES:
        found = events(finished.folder, site)
        asked = [event for event in found if event["kind"] == "instruction"]
        replied = [event for event in found if event["kind"] == "reply"]
        assert len(asked) == len(replied)
        assert not [event for event in found if event["kind"] in ("refused", "error")]
        seen |= {" ".join(filter(None, (e["message"], e["training"], e["step"]))) for e in asked}
    assert seen <= names
    assert {n for n in seen if n.startswith("train.")} == {
        name for name in names if name.startswith("train.")
    }


def test_the_bytes_are_those_of_the_report(finished: Finished) -> None:
    """metrics.jsonl counts tensor bytes; a ledger counts their .npy headers too."""
    lines = (finished.folder / "metrics.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines) if event["event"] == "reply"]
    for site in SITES:
        theirs = [event for event in told if event["site"] == site]
        ours = [
            event
            for event in events(finished.folder, site)
            if event["kind"] == "reply" and event["message"].startswith("train.")
        ]
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            headers = mine["bytes"] - other["bytes_up"] - 8 * len(mine["metrics"])
            assert headers == 128 * mine["tensors"]


@pytest.fixture
def cheating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's code that sends the mean image along with its weights."""
    honest = site_app.app

    def cheat(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if "weights" in reply.content:
            pixels = dict(reply.content.array_records["weights"])
            name = next(iter(pixels))
            array = pixels[name].numpy().copy()
            reply.content.array_records["weights"]["mean.image"] = Array(array)
        return reply

    monkeypatch.setattr(site_app, "app", cheat)


@pytest.mark.usefixtures("cheating")
def test_code_that_cheats_stops_the_study_and_nothing_of_it_arrives(
    sites: Path, tmp_path: Path
) -> None:
    study = load_study(write_study(tmp_path / "mini.toml", '["lower"]'))
    folder = tmp_path / "runs" / "mini"
    with pytest.raises(StudyStopped, match="its gate let nothing out"):
        run_study_here(study, Engine.inprocess, sites, folder, resume=False)
    refused = [event for event in events(folder, "ada") if event["kind"] == "refused"]
    assert refused[0]["code"] == 1102
    assert "'mean.image': is not in the manifest" in refused[0]["why"][0]
    theirs = [dict(line.event) for line in read(folder / "receipts.jsonl")][1:]
    # Enrolment arrived from both; the weights did not.
    assert {event["bytes"] < 1000 for event in theirs} == {True}


def test_the_engine_ray_stages_the_gated_app(tmp_path: Path) -> None:
    ray.stage_gated(tmp_path / "sonofed")
    text = (tmp_path / "sonofed" / "pyproject.toml").read_text()
    assert 'clientapp = "clients.gated:app"' in text
    assert "clients.app:app" not in text
    assert (tmp_path / "sonofed" / "clients" / "gated.py").exists()
