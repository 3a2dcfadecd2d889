"""`sonofed site desk` as a process: on the loopback alone, and what was said outlives it."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.annotations import annotated, close_labels, read_labels
from clients.asked import keep_asked
from clients.consensus import Rules, read_rules
from clients.settings import SiteSettings
from clients.site_list import read_sites, write_sites
from common.keeper import die_with_parent
from tests.clients.chosen import choose_all, site_of, study_of
from tests.scripts.conftest import Command

LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/enter\?token=([\w-]+)")
WAIT_S = 120.0


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    found = site_of(tmp_path)
    found.cache.mkdir()
    choose_all(found)
    return found


@pytest.fixture
def run(tmp_path: Path, site: SiteSettings) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.json").write_text(study_of(labels="file").canonical())
    source = site.model_copy(update={"name": "ada", "role": "source"})
    write_sites(folder / "sites" / "sites.json", [source, site])
    read_sites.cache_clear()
    return folder


class Running:
    """A desk's process and a browser without a window."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.cookie = ""
        self.port, self.token = self.link()

    def link(self) -> tuple[int, str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = LINK.search(line)
            if found:
                return int(found[1]), found[2]
        raise AssertionError("".join(self.lines))

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        origin = f"http://127.0.0.1:{self.port}"
        headers = {"Origin": origin, "X-Desk": "1", "Cookie": self.cookie}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        self.cookie = (answer.getheader("set-cookie") or self.cookie).partition(";")[0]
        connection.close()
        return answer.status, text

    def enter(self, name: str) -> None:
        assert self.call("GET", f"/enter?token={self.token}")[0] == 200
        assert self.call("POST", "/api/reader", {"name": name})[0] == 200

    def label(self, n: int, label: str) -> None:
        digest = json.loads(self.call("GET", f"/api/images/{n}")[1])["image_sha256"]
        body = {"label": label, "image_sha256": digest}
        assert self.call("POST", f"/api/images/{n}/label", body)[0] == 200


@contextmanager
def running(*arguments: object) -> Iterator[Running]:
    # The command by itself: `sonofed` would import all that trains first.
    start = "import typer; from scripts.site.desk import desk; typer.run(desk)"
    command = [sys.executable, "-c", start, "--no-browser", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=die_with_parent(),
    )  # fmt: skip
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait(WAIT_S)


def listening(process: int) -> Sequence[str]:
    """Addresses, in hexadecimal, on which a process listens."""
    inodes = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        if found:
            inodes.add(found[1])
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


def test_a_kill_loses_nothing(run: Path, site: SiteSettings) -> None:
    with running("--run", run, "--site-name", "bo") as desk:
        assert listening(desk.process.pid) == ["0100007F"]
        desk.enter("Dr A")
        desk.label(0, "malignant")
        os.kill(desk.process.pid, signal.SIGKILL)
        desk.process.wait(WAIT_S)
    assert annotated(site.folder, "random", 0.2) == (["i00"], ["malignant"])
    with running("--run", run, "--site-name", "bo") as desk:
        desk.enter("Dr A")
        overview = json.loads(desk.call("GET", "/api/desk")[1])
        assert [image["mine"] for image in overview["images"]][:2] == ["malignant", ""]
        link = desk.link()
        assert link != (desk.port, desk.token)  # each works once, and the next is told
        os.kill(desk.process.pid, signal.SIGINT)
        assert desk.process.wait(WAIT_S) == 0
        assert desk.process.stdout is not None
        assert "all that was said is saved" in desk.process.stdout.read()


def test_no_word_of_the_images_is_told_at_the_terminal(run: Path, site: SiteSettings) -> None:
    with running("--run", run, "--site-name", "bo") as desk:
        desk.enter("Dr A")
        desk.label(0, "benign")
        desk.call("GET", "/api/images/77")
        desk.link()
        os.kill(desk.process.pid, signal.SIGINT)
        desk.process.wait(WAIT_S)
        assert desk.process.stdout is not None
        said = "".join(desk.lines) + desk.process.stdout.read()
    assert not re.search(r"i0\d|Dr A|benign|/api/", said)


def test_a_port_that_is_taken(sonofed: Command, run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = sonofed("site", "desk", "--run", run, "--site-name", "bo", "--no-browser",
                       "--port", port)  # fmt: skip
    assert said.code == 2
    assert f"port {port} of 127.0.0.1 cannot be had" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the site: --site SITE.toml, or --run RUN with --site-name SITE"),
        (["--run", "{run}"], "name the site"),
        (["--site", "x", "--run", "{run}", "--site-name", "bo"], "name the site"),
        (["--run", "{run}", "--site-name", "ada"], "'ada' is no target of"),
        (["--run", "{run}/none", "--site-name", "bo"], "study.json"),
        (["--site", "{run}/none.toml"], "no such file"),
    ],
)
def test_wrong_input(sonofed: Command, run: Path, arguments: list[str], words: str) -> None:
    given = [argument.format(run=run) for argument in arguments]
    said = sonofed("site", "desk", "--no-browser", *given)
    assert said.code == 2
    assert words in said.err
    assert not (run.parent / "sites" / "bo" / "reading.json").exists()


def site_file(folder: Path, site: SiteSettings, role: str = "target") -> Path:
    path = folder / "site.toml"
    path.write_text(f"""
[site]
name = "bo"
role = "{role}"
data = {{ folder = "bo" }}
data_root = "data"
folder = "{site.folder}"
cache = "cache"
[upstream]
address = "center.example:9443"
ca = "ca.pem"
certificate = "site.pem"
key = "site.key"
""")
    return path


def test_a_hospitals_own_site(
    sonofed: Command, run: Path, site: SiteSettings, tmp_path: Path
) -> None:
    path = site_file(tmp_path, site)
    said = sonofed("site", "desk", "--no-browser", "--site", path)
    assert (said.code, said.err.count("no study has selected an image here yet")) == (2, 1)
    assert sonofed("labels", "export", "--site", path, "--to", "csv", "--out", "x").code == 2
    # What the study asks is written where its images are selected; here by the command for runs.
    sonofed("labels", "template", "--run", run, "--site", "bo", "--out", tmp_path / "t.csv")
    with running("--site", path, "--readers", 2) as desk:
        desk.enter("Dr A")
        desk.label(0, "malignant")
    assert read_rules(site.folder) == Rules(readers=2)
    assert annotated(site.folder, "random", 0.2) == ([], [])
    with running("--site", path) as desk:  # the number is remembered
        assert "an image counts once 2 readers have labelled it" in "".join(desk.lines)
        desk.enter("Dr B")
        desk.label(0, "malignant")
    assert annotated(site.folder, "random", 0.2) == (["i00"], ["malignant"])
    out = tmp_path / "out"
    said = sonofed("labels", "export", "--site", path, "--to", "coco", "--out", out)
    assert (said.code, said.err) == (0, "")
    assert "8 images, 2 labels, 0 outlines" in said.out
    said = sonofed("labels", "import", out / "annotations.json", "--site", path)
    assert "bo: 0 labels taken, 2 known already" in said.out
    source = site_file(tmp_path, site, "source")
    said = sonofed("site", "desk", "--no-browser", "--site", source)
    assert said.code == 2
    assert "only a target's images are read" in said.err


def test_the_study_that_waits_of_several(
    sonofed: Command, site: SiteSettings, tmp_path: Path
) -> None:
    """In a consortium each study has a folder of its own below the site's."""
    work = site.folder.parent / "work"
    path = site_file(tmp_path, site.model_copy(update={"folder": work}))
    for name in "pq":
        folder = work / f"{name}-0123abcd"
        shutil.copytree(site.folder, folder)
        keep_asked(folder, study_of(labels="file").model_copy(update={"name": name}))
    table = tmp_path / "t.csv"
    for more in ([], ["--study", "r"]):
        said = sonofed("labels", "template", "--site", path, "--out", table, *more)
        assert said.code == 2
        assert "name one study with --study; there are p-0123abcd, q-0123abcd" in said.err
    for study in ("q", "q-0123abcd"):
        said = sonofed("labels", "export", "--site", path, "--study", study, "--to", "csv",
                       "--out", tmp_path / study)  # fmt: skip
        assert said.code == 0, said.err
    close_labels(work / "p-0123abcd")
    with running("--site", path) as desk:  # one of the two still waits
        desk.enter("Dr A")
        desk.label(0, "benign")
    assert len(read_labels(work / "q-0123abcd")) == 1
    assert read_labels(work / "p-0123abcd") == []


def test_only_the_user_that_training_runs_as(
    sonofed: Command, run: Path, site: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: site.folder.stat().st_uid + 54_321)
    for arguments in (
        ["site", "desk", "--no-browser", "--run", run, "--site-name", "bo"],
        ["labels", "import", run, "--run", run, "--site", "bo"],
    ):
        said = sonofed(*arguments)
        assert said.code == 2
        assert "who runs the training; run this as" in said.err
    assert not (site.folder / "reading.json").exists()
