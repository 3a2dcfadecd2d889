"""docs/consortium.md and docs/site.md, followed word for word, on processes and over TLS.

Only what differs between a test and a hospital is put in: the address, the folder of images, and
that root needs a user for training.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.phantom.write import generate
from common.keeper import stop_keeper
from scripts.ports import free_ports
from scripts.study.place import run_folder
from server.consortium.place import Place

ROOT = Path(__file__).resolve().parents[2]
PROBES = {"riverside": "linear_hd", "hillcrest": "linear_pocket", "lakeview": "convex"}


def commands(page: str) -> list[str]:
    """Every line of the page's sh blocks."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.split("\n") if line]


def command(page: str, beginning: str) -> str:
    """The one line that begins so."""
    (found,) = [line for line in commands(page) if line.startswith(beginning)]
    return found


def test_every_line_is_a_command_that_there_is() -> None:
    for page in ("consortium.md", "site.md"):
        for line in commands(page):
            words = shlex.split(line)
            assert words[0] in ("sonofed", "cp"), line


class Follower:
    """Types what the pages say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "configs", folder / "configs")
        self.ports = free_ports(1)
        self.typed: set[str] = set()
        (folder / "images").mkdir()
        generate(
            folder / "images", anatomy="wrist", probes=list(PROBES.values()), patients=24, frames=2,
            side=64,
        )  # fmt: skip

    def type(self, line: str, site: str = "riverside") -> str:
        self.typed.add(line.removesuffix(" --yes"))
        line = line.replace("center.example:9443", f"127.0.0.1:{self.ports[0]}")
        line = line.replace("0.0.0.0:9443", f"127.0.0.1:{self.ports[0]}")
        line = line.replace("DATA", str(self.folder / "images" / PROBES[site]))
        line = line.replace("riverside", site)
        line = re.sub(r"\bsite/", f"{site}/", line)
        line = line.replace("--folder site", f"--folder {site}")
        if site != "riverside":
            line = line.replace("--role source", "--role target")
        words = shlex.split(line)
        if words[0] == "sonofed":
            words[0] = str(Path(sys.executable).parent / "sonofed")
        done = subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, timeout=3000, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o755)
    try:
        yield Follower(tmp_path)
    finally:
        for status in (*tmp_path.glob("*/status.json"),):
            stop_keeper(status)


def policy(follower: Follower, site: str, said: str) -> None:
    """What a person writes by hand: the site's name, the study's lines, training's user."""
    path = follower.folder / site / "policy.toml"
    text = path.read_text()
    lines = said[said.index("[studies.") :]
    text = text.replace('site = "hospital-1"', f'site = "{site}"', 1)
    path.write_text(text.replace("\n[studies]\n", f"\n[studies]\n{lines}", 1))
    if os.getuid() == 0:
        file = follower.folder / site / "site.toml"
        # A Python below /root is nobody's to run.
        user = "root" if Path(sys.executable).resolve().is_relative_to("/root") else "nobody"
        file.write_text(file.read_text().replace('user = ""', f'user = "{user}"', 1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_followed_word_for_word(follower: Follower) -> None:
    center, site = "consortium.md", "site.md"
    # The phantom's images are the hospitals' own here, as files are.
    study = follower.folder / "configs" / "poc.toml"
    text = re.sub(r"\[phantom\].*?\n\n", "", study.read_text(), flags=re.S)
    study.write_text(re.sub(r'probe = "(\w+)"', r'folder = "\1"', text))
    follower.type(command(center, "sonofed consortium init"))
    follower.type(command(center, "sonofed consortium up"))
    follower.type(command(center, "sonofed consortium status"))
    follower.type(command(center, "sonofed study bundle"))
    for name in PROBES:
        follower.type(command(center, "sonofed consortium invite"), name)
        follower.type(command(site, "sonofed site join riverside.invitation"), name)
        admit = command(center, "sonofed consortium admit")
        # What the hospital has sent.
        (follower.folder / name / f"{name}.request").rename(follower.folder / f"{name}.request")
        follower.type(admit, name)
        follower.type(command(site, "sonofed site join --admission"), name)
        follower.type(command(site, "cp "), name)
        said = follower.type(command(site, "sonofed gate policy manifest"), name)
        policy(follower, name, said)
        follower.type(command(site, "sonofed gate approve") + " --yes", name)
        follower.type(command(site, "sonofed site check"), name)
        follower.type(command(site, "sonofed site up"), name)
        follower.type(command(site, "sonofed site status"), name)
    said = follower.type(command(center, "sonofed study submit --rehearse"))
    assert "opens none of its own images" in said
    said = follower.type(command(center, "sonofed study submit configs"))
    assert "report: " in said
    assert "finished" in follower.type(command(center, "sonofed study list"))
    follower.type(command(center, "sonofed consortium receipts"))
    follower.type(command(center, "sonofed study export"))
    run = run_folder(Place(follower.folder / "consortium"), None)
    assert (run / "report.html").exists()
    follower.type(command(center, "sonofed consortium renew"))
    follower.type(command(center, "sonofed consortium revoke"))
    told = follower.type("sonofed consortium status")
    assert "revoked" in told
    # A study that has finished cannot go on: test_survival.py, test_sites.py have those that can.
    left = {*commands(center), *commands(site)} - follower.typed
    assert left == {
        command(center, f"sonofed study {name}") for name in ("resume", "drop-site", "add-site")
    }
