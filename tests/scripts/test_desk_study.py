"""A study that waits at the desk: readers label and outline, and it goes on by itself."""

import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clients.annotations import all_worklists
from clients.asked import read_asked
from clients.consensus import Rules, write_rules
from clients.desk.desk import Desk
from clients.desk.door import Session
from clients.settings import SiteSettings
from clients.site_list import read_sites
from common.formats import read_results
from scripts.simulate import Engine, run_study_here
from tests.tiny import choosing

WAIT_S = 240.0
STUDY = choosing(
    arms=["ensemble", "ensemble_selected", "entropy"],
    select={"budgets": [0.4], "budget": "per_site"},
    annotate={"labels": "file", "poll_s": 0.1},
    evaluate={"bootstrap": 100, "overlays": 0},
)


def until_it_waits(run: Path) -> list[SiteSettings]:
    """The targets, once the study waits for their experts."""
    end = time.monotonic() + WAIT_S
    events = run / "metrics.jsonl"
    while not (events.exists() and '"event": "waiting"' in events.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return [s for s in read_sites(run / "sites" / "sites.json") if s.role == "target"]


def waits(run: Path) -> list[dict[str, str]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["sites"] for line in lines if line["event"] == "waiting"]


def read_all(run: Path) -> dict[str, int]:
    """What the readers do, site after site; outlines by site."""
    drawn: dict[str, int] = {}
    for site in until_it_waits(run):
        write_rules(site.folder, Rules(outlines=True))
        desk, session = Desk(site, read_asked(site.folder)), Session()
        assert desk.asked.outlines
        desk.enter(session, "Dr A")
        for n in range(len(desk.wanted)):
            image = desk.image(session, n)
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            mask[5:15, 5:20] = 1
            label = STUDY.labels[n % 2]
            answer = desk.label(session, n, label, image["image_sha256"])
            assert answer["progress"]["counted"] == n
            desk.outline(session, n, mask, image["image_sha256"])
        drawn[site.name] = len(desk.wanted)
    return drawn


@pytest.mark.slow
def test_the_study_goes_on_by_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_all, run)
        run_study_here(STUDY, Engine.inprocess, tmp_path, run, resume=False)
        drawn = reading.result(WAIT_S)
    assert set(drawn) == {"east", "west"}
    assert all(drawn.values())
    said = waits(run)
    assert set(said[0]) == {"east", "west"}
    assert said[0]["east"].startswith("0 of ")
    for site in drawn:
        folder = run / "sites" / site
        for name in ("annotated.csv", "outlined.csv"):
            with (folder / "selection" / name).open(newline="") as file:
                assert len(list(csv.DictReader(file))) == drawn[site]
    counts = json.loads((run / "state" / "annotate.json").read_text())["counts"]
    for site in drawn:
        wanted = len(all_worklists(run / "sites" / site)["entropy", "40"])
        assert counts[site]["entropy.40.outlined"] == counts[site]["entropy.40.annotated"] == wanted
    results = read_results(run / "results.json")
    assert results.selection is not None
    assert "ensemble_selected_40" in results.arms
    # Nothing that a reader said, and no name of theirs, has left the sites.
    own = [path for path in run.rglob("*") if path.is_file()
           and "sites" not in path.relative_to(run).parts
           and path.suffix in (".json", ".jsonl", ".html")]  # fmt: skip
    assert not [path for path in own if "Dr A" in path.read_text(encoding="utf-8")]
