"""A site whose disk fills while it works: named by its code alone; with room again nothing is lost.

The disk is a real one, a few blocks of memory mounted where the site works.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from clients.app import app
from clients.settings import SiteSettings, study_folder
from common.config.study import Study
from common.models.branches import State
from common.wire.records import ERROR_DISK, INSTRUCTION
from server.context import StudyStopped
from server.stages import train
from tests.clients.world import World, equal, world_of
from tests.played import Events, PlayedGrid, server_of

KEY = "mim/mim"
ROUNDS = 2


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mounted there; skipped where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {found.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until there is no room; the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


class Sites:
    """The sites of a study behind a grid; their real code answers."""

    def __init__(self, world: World, caches: Path) -> None:
        self.world = world
        self.caches = caches
        self.before: Callable[[str, int], None] = lambda site, round_: None

    def site(self, name: str) -> SiteSettings:
        changes = {"consortium": True, "cache": self.caches / name}
        return self.world.site(name).model_copy(update=changes)

    def play(self, site: str, message: Message) -> Message:
        """What the site's own code answers."""
        record = message.content.config_records[INSTRUCTION]
        self.before(site, int(str(record["round"])))
        path = self.world.root / f"{site}.json"
        path.write_text(self.site(site).model_dump_json())
        return app(message, Context(1, 2, {"settings": str(path)}, RecordDict(), {}))

    def train(self, run: Path) -> tuple[State, Events]:
        """The training as the server leads it, from where it stands."""
        study = self.world.study
        context, events = server_of(study, run, PlayedGrid(study.sites, self.play))
        train.run(context, self.world.training(KEY))
        return context.result(KEY), events

    def epochs(self, site: str) -> int:
        """How many the site has trained so far."""
        study: Study = self.world.study.for_sites()
        own = self.site(site).folder / study_folder(study.name, study.digest)
        return len((own / "epochs.jsonl").read_text().splitlines())


@pytest.fixture
def sites_of(tmp_path: Path, phantom: Path) -> Callable[..., Sites]:
    def make(name: str, **changes: object) -> Sites:
        (tmp_path / name).mkdir()
        world = world_of(tmp_path / name, phantom, mim={"rounds": ROUNDS}, **changes)
        return Sites(world, tmp_path / name / "caches")

    return make


def fill_in_round(sites: Sites, site: str, wanted: int) -> list[Path]:
    """Have a site's working folder full when it works in a round."""
    fillers: list[Path] = []

    def before(name: str, round_: int) -> None:
        if (name, round_) == (site, wanted) and not fillers:
            fillers.append(fill(sites.site(site).folder))

    sites.before = before
    return fillers


def test_a_working_folder_that_fills_stops_the_study_and_room_lets_it_go_on(
    sites_of: Callable[..., Sites], tmp_path: Path
) -> None:
    undisturbed, _ = sites_of("undisturbed").train(tmp_path / "undisturbed-run")
    sites = sites_of("disturbed")
    with small_disk(sites.site("bo").folder, 16):
        fillers = fill_in_round(sites, "bo", 1)
        with pytest.raises(StudyStopped) as stopped:
            sites.train(tmp_path / "run")
        words = str(stopped.value)
        assert f"bo: its disk is full (code {ERROR_DISK})" in words
        # Nothing of the site's own: no path, no file, no system's words.
        assert str(tmp_path) not in words
        assert "No space" not in words
        before = sites.epochs("cy")
        fillers[0].unlink()
        found, events = sites.train(tmp_path / "run")
    assert equal(found, undisturbed)
    assert [event["round"] for event in events.named("round")] == [1, 2]
    # The other site had done its share of round 1, and said it again.
    assert (before, sites.epochs("cy")) == (1, 2)


def test_with_a_quorum_the_round_goes_on_and_the_site_is_back_in_the_next(
    sites_of: Callable[..., Sites], tmp_path: Path
) -> None:
    sites = sites_of("quorum", federation={"quorum": 0.5})
    with small_disk(sites.site("bo").folder, 16):
        fillers = fill_in_round(sites, "bo", 1)
        full = sites.before

        def before(name: str, round_: int) -> None:
            if round_ == 2 and fillers:
                fillers.pop().unlink()
            elif round_ == 1:
                full(name, round_)

        sites.before = before
        _, events = sites.train(tmp_path / "run")
    first, second = events.named("round")
    assert first["refused"] == {"bo": f"its disk is full (code {ERROR_DISK})"}
    assert first["sites"] == ["cy"]
    assert second["sites"] == ["bo", "cy"]
    assert "No space" not in json.dumps(events.seen)


def test_a_cache_that_does_not_fit_is_told_as_such(
    sites_of: Callable[..., Sites], tmp_path: Path
) -> None:
    sites = sites_of("cache")
    cache = sites.site("bo").cache
    assert cache is not None
    with small_disk(cache, 16):
        with pytest.raises(StudyStopped, match=rf"bo: its disk is full \(code {ERROR_DISK}\)"):
            sites.train(tmp_path / "run")
        assert "too little disk for the image cache" in sites.world.log("bo")
        subprocess.run(["mount", "-o", "remount,size=128m", str(cache)], check=True)
        _, events = sites.train(tmp_path / "run")
        assert [event["round"] for event in events.named("round")] == [1, 2]
    assert not os.path.ismount(cache)
