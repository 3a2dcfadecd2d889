"""A consortium on one machine, as `sonofed poc` has it: up, a study, what is refused, down."""

import http.server
import json
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from common.config.load import load_study
from common.config.study import Study
from scripts.consortium.rehearsal import Rehearsal
from server.context import StudyStopped
from tests.scripts.conftest import Command

ROOT = Path(__file__).resolve().parents[3]
STUDY = ROOT / "configs" / "poc.toml"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def study() -> Study:
    return load_study(STUDY, ["arms=['mim']"])


def processes(folder: Path) -> list[str]:
    """Command lines of all that runs with something of a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name == str(os.getpid()):
            continue
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_all_of_it_by_the_commands(tmp_path: Path, sonofed: Command) -> None:
    """Up in one command, a study in another, status in a third; down leaves nothing."""
    folder = tmp_path / "poc"
    said = sonofed("poc", "up", STUDY, "--folder", folder)
    assert said.code == 0, said.err
    said = sonofed("poc", "up", STUDY, "--folder", folder)
    assert said.code == 2
    assert "is up already" in said.err
    said = sonofed("poc", "status", "--folder", folder)
    assert said.code == 0
    for words in ("superlink", "front", "riverside", "hillcrest", "lakeview", "gate"):
        assert words in said.out
    center = folder / "center"
    said = sonofed("consortium", "status", "--consortium", center)
    assert said.code == 0
    assert said.out.count("online") == 3
    said = sonofed("study", "submit", STUDY, "--consortium", center, "--set", "arms=['mim']")
    assert said.code == 0, said.out + said.err
    assert "finished completed" in sonofed("study", "list", "--consortium", center).out
    said = sonofed("study", "submit", STUDY, "--consortium", center, "--set", "arms=['mim']")
    assert said.code == 2
    assert "holds a finished run" in said.err
    for name in ("riverside", "hillcrest", "lakeview"):
        gate = folder / "sites" / name / "gate"
        (run,) = (center / "runs").glob("poc-*")
        said = sonofed("audit", "verify", gate, "--receipts", run / "receipts.jsonl")
        assert said.code == 0, said.out
    assert processes(folder)
    assert sonofed("poc", "down", "--folder", folder).code == 0
    assert processes(folder) == []
    assert sonofed("poc", "status", "--folder", folder).code == 0
    assert "nothing was running" in sonofed("poc", "down", "--folder", folder).out


def parts(run: Path, key: str) -> dict[int, set[str]]:
    """Who took part in each round of a training so far."""
    found: dict[int, set[str]] = {}
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    for event in map(json.loads, lines):
        if event["event"] == "reply" and event.get("training") == key:
            found.setdefault(event["round"], set()).add(event["site"])
    return found


def test_sites_come_and_go_while_a_study_runs(tmp_path: Path, sonofed: Command) -> None:
    """Begun without one hospital; then it is let in, and another one is dropped."""
    folder, rounds = tmp_path / "poc", 12
    center = folder / "center"
    run = center / "runs" / "comes-and-goes"

    def wait(done: Callable[[dict[int, set[str]]], bool]) -> None:
        end = time.monotonic() + 1200
        while not done(parts(run, "mim/mim")):
            assert time.monotonic() < end, parts(run, "mim/mim")
            time.sleep(0.2)

    def study(*words: object) -> str:
        said = sonofed("study", *words, "--consortium", center)
        assert said.code == 0, said.out + said.err
        return said.out

    assert sonofed("poc", "up", STUDY, "--folder", folder).code == 0
    try:
        study(
            "submit", STUDY, "--out", run, "--without", "lakeview", "--no-watch",
            "--set", "arms=['mim']", "--set", f"mim.rounds={rounds}",
        )  # fmt: skip
        wait(lambda had: 1 in had)
        study("add-site", "lakeview")
        wait(lambda had: any("lakeview" in sites for sites in had.values()))
        study("drop-site", "hillcrest", "--reason", "its machine is being replaced")
        wait(lambda had: len(had.get(rounds, ())) > 0)
        study("watch")
    finally:
        assert sonofed("poc", "down", "--folder", folder).code == 0
    had = parts(run, "mim/mim")
    assert sorted(had) == list(range(1, rounds + 1))
    assert had[1] == {"hillcrest"}
    assert {"hillcrest", "lakeview"} in had.values()
    assert had[rounds] == {"lakeview"}
    results = json.loads((run / "results.json").read_text())
    left = next(note for note in results["notes"] if note.startswith("hillcrest: dropped"))
    assert "(its machine is being replaced)" in left
    assert left.endswith("; it was not evaluated.")
    came = next(note for note in results["notes"] if note.startswith("lakeview: dropped"))
    assert "; added on " in came


def test_a_part_of_ones_own_trains_at_every_site(
    tmp_path: Path, sonofed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss beside the study file: the consortium ends in the bits of the simulation."""
    monkeypatch.setenv("SONOFED_PARTS", "")
    parts = tmp_path / "mystudy" / "ourparts"
    parts.mkdir(parents=True)
    (parts / "__init__.py").touch()
    (parts / "loss.py").write_text(
        "def brier(logits, targets):\n    return ((logits.sigmoid() - targets) ** 2).mean()\n"
    )
    own = Path(shutil.copy(STUDY, parts.parent / "own.toml"))
    said = sonofed(
        "poc", "run", own, "--folder", tmp_path / "poc", "--set", "arms=['lower']",
        "--set", "finetune.loss='ourparts.loss:brier'",
    )  # fmt: skip
    assert said.code == 0, said.out + said.err
    assert "to the last bit" in said.out


def test_code_that_nobody_approved_runs_nowhere(tmp_path: Path) -> None:
    def change(app: Path) -> None:
        with (app / "clients" / "app.py").open("a", encoding="utf-8") as file:
            file.write("\n# one byte more\n")

    with (
        Rehearsal(tmp_path / "poc", study(), change=change, approve=False) as made,
        pytest.raises(StudyStopped, match="did not let the instruction in"),
    ):
        made.run()
    for site in made.sites.values():
        assert "instruction" not in {
            line.split('"kind":"')[1].split('"')[0] for line in site.ledger.read_text().splitlines()
        }
        assert not (site.folder / "work" / "flower" / "apps").exists()


class Recorder(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the SuperLink, and remembers which."""

    protocol_version = "HTTP/1.1"
    url = ""
    context: ssl.SSLContext
    paths: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(self.url + self.path, body, kept)
        try:
            with urllib.request.urlopen(request, context=self.context) as answer:
                status, data, kind = answer.status, answer.read(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            status, data, kind = error.code, error.read(), error.headers["content-type"]
        self.send_response(status)
        self.send_header("content-type", kind or "text/plain")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_a_recorder_between_front_and_superlink_sees_all(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / "poc", study())
    made.prepare()
    paths: list[str] = []
    context = ssl.create_default_context(cafile=str(made.place.ca))
    more = {"url": made.superlink_url, "context": context, "paths": paths}
    handler = type("Handler", (Recorder,), more)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as recorder:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        made.upstream = f"http://127.0.0.1:{recorder.server_port}"
        with made:
            made.run()
        recorder.shutdown()
    assert all(path.startswith("/v1/fleet/") for path in paths)
    # Three say who they are, two train, one fine-tunes, three predict and three compare.
    assert paths.count("/v1/fleet/push-messages") == 3 + 2 + 1 + 3 + 3
    logged = (made.place.logs / "front.log").read_text().splitlines()
    assert len([line for line in logged if " 200 " in line]) <= len(paths)


def test_a_rehearsal_ends_with_its_process(tmp_path: Path) -> None:
    """Killed in the middle, with no chance to say goodbye."""
    folder = tmp_path / "poc"
    child = os.fork()
    if child == 0:
        try:
            Rehearsal(folder, study()).up()
            (tmp_path / "up").touch()
            time.sleep(1000)
        finally:
            os._exit(1)
    end = time.monotonic() + 900
    while not (tmp_path / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.2)
    assert processes(folder)
    os.kill(child, 9)
    os.waitpid(child, 0)
    end = time.monotonic() + 120
    while processes(folder):
        assert time.monotonic() < end, processes(folder)
        time.sleep(0.2)
