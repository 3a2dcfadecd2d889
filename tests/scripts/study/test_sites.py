"""`sonofed study drop-site`, `add-site`, and a beginning without somebody."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.config.load import load_study
from scripts import prepare
from scripts.study.place import RUN_FILE
from server.attendance import FILE, gone, note, read_changes
from server.checkpoint import Record, RunFolder
from server.consortium import membership
from server.consortium.place import Place
from tests.scripts.conftest import Command
from tests.scripts.study.superlinks import nodes, played, runs
from tests.server.consortium.test_membership import request

STUDY = Path(__file__).resolve().parents[3] / "configs" / "poc.toml"
SITES = ("riverside", "hillcrest", "lakeview")  # a source and two targets


@dataclass
class Center:
    """A consortium with a run, whose SuperLink is played."""

    place: Place
    run: Path
    states: bytes = runs((7, "finished", "stopped"))
    online: dict[str, str] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, bytes]:
        return 200, nodes(**self.online) if "nodes" in path else self.states


@pytest.fixture
def center(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Center]:
    monkeypatch.setenv("SONOFED_CONSORTIUM", str(tmp_path / "center"))
    made: list[Center] = []
    with played(tmp_path / "center", lambda path: made[0].answer(path)) as place:
        run = place.runs / "poc"
        prepare.make_folder(run, load_study(STUDY))
        (run / RUN_FILE).write_text("7\n")
        for name in SITES[:2]:
            membership.admit(place, request(place, name))
        made.append(Center(place, run))
        yield made[0]


def test_leaving_and_coming_back(center: Center, sonofed: Command) -> None:
    said = sonofed("study", "drop-site", "hillcrest", "--reason", "no network")
    assert said.code == 0, said.err
    assert "from the next round on nobody waits for it" in said.out
    assert "under way" not in said.out
    (change,) = read_changes(center.run)
    assert (change.site, change.reason) == ("hillcrest", "no network")
    assert sonofed("study", "add-site", "hillcrest", center.run).code == 0
    assert gone(read_changes(center.run)) == {}


def test_while_a_run_is_under_way(center: Center, sonofed: Command) -> None:
    center.states = runs((6, "finished", "stopped"), (7, "running", ""))
    said = sonofed("study", "drop-site", "hillcrest")
    assert "a round that is under way still does" in said.out
    center.online = {"hillcrest": "offline", "lakeview": "online"}
    said = sonofed("study", "add-site", "hillcrest")
    assert said.code == 2
    assert "hillcrest: is not connected; start it there (`sonofed site up`)" in said.err
    center.online["hillcrest"] = "online"
    assert sonofed("study", "add-site", "hillcrest").code == 0


def test_nobody_left_is_said_at_once(center: Center, sonofed: Command) -> None:
    assert "is left" not in sonofed("study", "drop-site", "hillcrest").out
    said = sonofed("study", "drop-site", "lakeview")
    assert said.code == 0
    assert "no target is left: the study stops unless one is added" in said.out
    said = sonofed("study", "drop-site", "riverside")
    assert "no source is left" in said.out


def test_a_training_that_nobody_is_left_for(center: Center, sonofed: Command) -> None:
    study = load_study(STUDY, ["arms=['mim']", "mim.participants=['hillcrest']"])
    (center.run / "study.json").write_text(study.canonical())
    said = sonofed("study", "drop-site", "hillcrest")
    assert "mim/mim: nobody is left who trains it: the study stops there" in said.out
    note(center.run, "added", "hillcrest")
    # What is finished needs nobody any more.
    RunFolder(center.run).checkpoint("mim/mim").folder.mkdir(parents=True)
    RunFolder(center.run).checkpoint("mim/mim").finish(Record("mim/mim", 1, finished=True))
    assert "nobody is left" not in sonofed("study", "drop-site", "hillcrest").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drop-site", "eve"], "eve: is no site of the study poc (its sites: hillcrest, "),
        (["add-site", "eve"], "eve: is no site of the study poc"),
        (["drop-site", "lakeview"], "lakeview: was dropped already, on 20"),
        (["add-site", "hillcrest"], "hillcrest: takes part already"),
        (["add-site", "lakeview"], "lakeview: no sites of the consortium (its sites: riverside"),
        (["drop-site", "hillcrest", "nowhere"], "nowhere: is no run of a consortium"),
    ],
)
def test_wrong_input(center: Center, sonofed: Command, arguments: list[str], words: str) -> None:
    note(center.run, "dropped", "lakeview")
    before = (center.run / FILE).read_bytes()
    said = sonofed("study", *arguments)
    assert said.code == 2
    assert words in said.err
    assert (center.run / FILE).read_bytes() == before


def test_a_run_that_has_finished(center: Center, sonofed: Command) -> None:
    note(center.run, "dropped", "hillcrest")
    (center.run / "results.json").write_text(json.dumps({}))
    for command, site in (("drop-site", "lakeview"), ("add-site", "hillcrest")):
        said = sonofed("study", command, site)
        assert said.code == 2
        assert "has finished; who took part is settled" in said.err


def test_beginning_without_somebody(center: Center, sonofed: Command, tmp_path: Path) -> None:
    """Who is left out need not be a member yet; whoever is not has to be."""
    out = tmp_path / "new"
    command = ["study", "submit", STUDY, "--out", out, "--no-watch"]
    said = sonofed(*command)
    assert said.code == 2
    assert "lakeview: no sites of the consortium" in said.err
    for left_out, words in (
        (["eve"], "eve: is no site of the study"),
        (["hillcrest", "lakeview"], "--without: no target would be left"),
    ):
        said = sonofed(*command, *(f"--without={site}" for site in left_out))
        assert said.code == 2
        assert words in said.err
    assert not out.exists()
    said = sonofed(*command, "--without", "lakeview")
    assert said.code == 0, said.err
    assert set(gone(read_changes(out))) == {"lakeview"}
