"""The experiment as a reviewer runs it, and its page when something does not hold."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients.gate.book import Book
from clients.supernode import can_be_shut_in
from common.errors import InputError
from common.ledger_check import read, verify
from scripts.audit import connections, experiment, prove
from scripts.audit.canary import Canaries
from scripts.audit.capture import Account
from scripts.audit.connections import Connection
from scripts.audit.controls import Control, Controls
from scripts.audit.egress import event_of
from scripts.audit.experiment import Experiment, note_controls, note_door
from scripts.audit.proof import LIMITS, Proof
from scripts.audit.proof_page import programs, write_page
from scripts.audit.reconcile import SiteAccount
from scripts.audit.search import Found, Hit
from scripts.audit.show import show
from server.consortium import front

SONOFED = Path(sys.executable).parent / "sonofed"


def has_nginx() -> bool:
    try:
        front.executable()
    except InputError:
        return False
    return True


def a_proof() -> Proof:
    proof = Proof(quick=True)
    proof.study = {"name": "audit", "sites": ["one", "two"], "empty_network": True}
    proof.canaries = {"images": 8, "masks": 8, "words": 9, "needles": 1234}
    proof.up, proof.down = Found(bytes=10**6, unpacked={"zlib": 3}), Found(bytes=10**6)
    proof.account = Account(1000, {"push-object": 7}, 100, {"push-object": 900})
    proof.sites = [SiteAccount("one", 3, 500, 500, 1, 3)]
    proof.connections = [
        (Connection("nginx", "connect", "IPv4", "127.0.0.1:5", "ok"), "recorder"),
        (Connection("nginx", "bind", "IPv4", "127.0.0.1:6", "ok"), "front"),
    ]
    proof.controls = Controls(
        honest=True,
        tricks=[Control("a trick", True, 1102, 5, "is <refused>", 0, True, "bytes")],
        instructions=[Control("an order", True, 1101, 6, "is not approved")],
        hidden=Control("pixels as valid small weights", False, 0, 0, "", 1, True, "float32"),
        exchange="train.mim",
    )
    proof.seconds = {"study": 65.0}
    proof.check("search", experiment.SEARCH, True, "nothing")
    return proof


def test_a_proof_is_a_page_and_the_same_as_data(tmp_path: Path) -> None:
    proof = a_proof()
    proof.write(tmp_path / "r.json")
    write_page(proof, tmp_path / "r.html")
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["passed"] is True
    assert told["controls"]["tricks"][0]["code"] == 1102
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No image left" in page
    assert "is &lt;refused&gt;" in page
    for name, words in LIMITS:
        assert name in page
        assert words.split(".")[0] in page
    assert "http" not in page.replace("heads of HTTP", "")


def test_what_failed_stands_first_and_what_was_skipped_is_named(tmp_path: Path) -> None:
    proof = a_proof()
    proof.check("bytes", experiment.BYTES, False, "3 bytes belong to nothing")
    proof.skip("door", experiment.DOOR, "strace is not installed")
    assert not proof.passed
    write_page(proof, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "1 claim did not hold" in page
    assert "3 bytes belong to nothing" in page
    assert "Nothing is proven of it" in page


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, []),
        ({"honest": False, "honest_words": "no answer came"}, ["gate"]),
        ({"tricks": [Control("a", False, arrived=3)]}, ["gate"]),
        ({"tricks": [Control("a", True, 1102, found=False)]}, ["finds"]),
        ({"instructions": [Control("a", False, words="handed down")]}, ["gate"]),
        ({"tricks": [], "instructions": []}, ["gate"]),
    ],
)
def test_a_trick_that_passes_or_is_not_found_fails_the_proof(
    changes: dict[str, Any], failed: list[str]
) -> None:
    proof = Proof(quick=True)
    found = a_proof().controls
    assert found is not None
    for name, value in changes.items():
        setattr(found, name, value)
    note_controls(proof, found)
    assert [check.name for check in proof.checks if check.state == "FAILED"] == failed


def test_a_gate_that_dials_anything_else_fails_the_proof() -> None:
    own = Connection("gate", "connect", "IPv4", "127.0.0.1:9", "ok")
    door = Connection("gate", "bind", "IPv4", "127.0.0.1:1", "ok")
    for more, holds in (
        ([], True),
        ([Connection("gate", "connect", "IPv4", "127.0.0.1:10", "ok")], False),
        ([Connection("gate", "sendto", "IPv4", "8.8.8.8:53", "ok")], False),
        ([Connection("gate", "bind", "IPv4", "0.0.0.0:9", "ok")], False),
    ):
        proof = Proof(quick=True)
        note_door(proof, [own, door, *more], "127.0.0.1:9")
        assert proof.passed is holds


def test_connections_are_told_by_program() -> None:
    proof = a_proof()
    out = Connection("nginx", "connect", "IPv4", "192.0.2.1:80", "ENETUNREACH")
    (row,) = programs([*proof.connections, (out, "")])
    assert (row["dialled"], row["opened"]) == ("recorder", "front")
    assert row["out"] == ["connect 192.0.2.1:80 (ENETUNREACH)"]


def test_a_search_that_finds_something_fails_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = Proof(quick=True)
    monkeypatch.setattr(
        experiment,
        "_searched",
        lambda wire, way, searcher, steps: Found(9, hits=[Hit("an image", "bytes", 3)], count=1),
    )
    Experiment(tmp_path, proof)._search(tmp_path, None)  # type: ignore[arg-type]
    assert not proof.passed
    assert "an image: bytes" in proof.checks[0].words


def test_without_nginx_the_study_is_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> str:
        raise InputError("nginx is not installed")

    monkeypatch.setattr(front, "executable", absent)
    tried: list[Canaries] = []
    monkeypatch.setattr(Experiment, "_controls", lambda self, made, *rest: tried.append(made))
    proof = Experiment(tmp_path, Proof(quick=True)).run()
    assert {check.name for check in proof.skipped} == {
        "study", "search", "bytes", "ledgers", "network", "connections"
    }  # fmt: skip
    assert tried
    assert proof.passed


def test_a_folder_with_an_old_recording_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError, match="is there already"):
        prove.prove(quick=True, out=tmp_path, keep=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_experiment_holds_on_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SONOFED), "audit", "prove", "--quick", "--keep", "--out", str(tmp_path / "audit")],
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads((tmp_path / "audit" / "report.json").read_text())
    states = {check["name"]: (check["state"], check["words"]) for check in told["checks"]}
    assert done.returncode == 0, (states, done.stdout[-2000:], done.stderr[-2000:])
    assert told["passed"]
    wanted = {"gate", "finds"}
    if connections.is_there():
        wanted.add("door")
    if has_nginx():
        wanted |= {"study", "search", "bytes", "ledgers"}
        if connections.is_there():
            wanted.add("connections")
            if can_be_shut_in():
                wanted.add("network")
    assert {name for name, (state, _) in states.items() if state == "holds"} == wanted
    assert all(control["caught"] for control in told["controls"]["tricks"])
    assert told["controls"]["hidden"]["caught"] is False
    if has_nginx():
        assert told["up"]["bytes"] > 5e6
        work = tmp_path / "audit" / "work"
        for ledger in work.glob("consortium/sites/*/gate/ledger.jsonl"):
            assert verify(ledger).problem is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sites_own_gate_is_tried_and_the_result_signed(tmp_path: Path) -> None:
    """`site check --egress` on a site as a rehearsal makes it."""
    from scripts.audit import stage, staged

    study = staged.study(quick=True)
    staged.write_data(tmp_path / "data", study)
    staging = stage.rehearsal(tmp_path, quick=True, open_network=True)
    staging.prepare()
    site = staging.sites["canary-target"]
    command = [str(SONOFED), "site", "check", "--egress", "--site", str(site.site_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(site.ledger).problem is None
    event = [line.event for line in read(site.ledger)][-1]
    assert event["kind"] == "checked"
    assert event["holds"] == "yes"
    assert event["caught"] == event["tricks"] > 40


def test_audit_show_tells_that_a_gate_was_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = Proof(quick=True)
    proof.controls = a_proof().controls
    assert proof.controls is not None
    note_controls(proof, proof.controls)
    proof.skip("door", experiment.DOOR, "strace is not installed")
    with Book(tmp_path, "west", "gate") as book:
        book.ledger.append(event_of(proof, "0" * 64))
    show(tmp_path, out=tmp_path / "page.html")
    words = "2 of 2 tricks caught; door was skipped"
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "page.html").read_text(encoding="utf-8")
