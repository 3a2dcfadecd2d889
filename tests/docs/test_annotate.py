"""docs/annotate.md: its commands are run as they stand there, its keys are the page's."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from clients.asked import keep_asked
from clients.consensus import AGREE_DICE
from clients.forms.export import FORMS
from clients.settings import SiteSettings
from clients.site_list import read_sites, write_sites
from scripts.cli import app
from tests.clients.chosen import choose_all, site_of, study_of

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "annotate.md").read_text(encoding="utf-8")
KEYS = DOCS.parent / "clients" / "desk" / "static" / "keys.js"
SMALL_BYTES = 150_000


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    """A folder with the file and the run that the page speaks of."""
    site = site_of(tmp_path, name="hillcrest")
    choose_all(site)
    site.cache.mkdir()
    study = study_of(labels="file")
    keep_asked(site.folder, study)
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "study.json").write_text(study.canonical())
    write_sites(tmp_path / "RUN" / "sites" / "sites.json", [site])
    read_sites.cache_clear()
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "hillcrest"\nrole = "target"\ndata = { folder = "hillcrest" }\n'
        'data_root = "data"\nfolder = "sites/hillcrest"\ncache = "cache"\n[upstream]\n'
        'address = "center.example:9443"\nca = "a"\ncertificate = "b"\nkey = "c"\n'
    )
    monkeypatch.chdir(tmp_path)
    return site


def test_every_command_runs_as_it_stands(
    place: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("scripts.site.desk.serve", lambda desk, port, **_: served.append(desk))
    ran = commands()
    assert len(ran) == 4
    for line in ran:
        program, *arguments = shlex.split(line)
        assert program == ".venv/bin/sonofed"
        app(arguments, standalone_mode=False)
    assert [desk.site.name for desk in served] == ["hillcrest", "hillcrest"]
    assert len(json.loads(Path("DIR/annotations.json").read_text())["images"]) == 8


def test_the_keys_are_those_of_the_page() -> None:
    listed = KEYS.read_text(encoding="utf-8").partition("export function")[0]
    rows = dict(re.findall(r'\["([^"]+)", "([^"]+)"\]', listed))
    table = TEXT.partition("| key | |\n|---|---|\n")[2].partition("\n\n")[0]
    written = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))
    assert {key.replace("  ", ", "): does for key, does in rows.items()} == written


def test_what_it_says_of_forms_and_agreement() -> None:
    assert re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", TEXT, re.MULTILINE) == list(FORMS)
    assert f"Dice of {AGREE_DICE:.2f}".replace("0.", ".") in TEXT


def test_its_pictures_are_there_and_small() -> None:
    pictures = [DOCS / name for name in re.findall(r"\]\(([\w-]+\.png)\)", TEXT)]
    assert len(pictures) == 2
    assert all(0 < path.stat().st_size < SMALL_BYTES for path in pictures)
