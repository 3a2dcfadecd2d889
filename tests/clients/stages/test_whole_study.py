"""Every stage behind one another, in one process, where each target keeps to itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.site_list import write_sites
from scripts.engines import inprocess
from tests.clients.world import world_of

CASES = {
    "pretrain": (
        "ensemble_adapted",
        {"pretrain": {"scope": "per_site"}},
        {"mim/mim@bo", "mim/mim@cy"},
    ),
    "adapt": ("lower_adapted", {}, {"lower/lower", "lower_adapted/adapt@bo"}),
}


@pytest.mark.parametrize(("arm", "change", "trainings"), CASES.values(), ids=list(CASES))
def test_per_site_scopes_run_to_the_report(
    tmp_path: Path, phantom: Path, arm: str, change: dict[str, Any], trainings: set[str]
) -> None:
    world = world_of(
        tmp_path, phantom, arms=[arm], adapt={"scope": "per_site"}, compute={"batch": 8}, **change
    )
    assert trainings <= set(world.plan.trainings)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.json").write_text(world.study.canonical())
    sites = [
        world.site(name).model_copy(update={"folder": folder / "sites" / name})
        for name in world.study.sites
    ]
    write_sites(folder / "sites" / "sites.json", sites)
    inprocess.run(folder, folder / "sites" / "sites.json", 1)
    results = json.loads((folder / "results.json").read_text())
    for site in world.study.sites:
        assert 0 <= results["arms"][arm]["sites"][site]["dice"]["mean"] <= 1
    assert (folder / "report.html").exists()
    mine = world.plan.arms[arm].members
    assert not set(mine["bo"]) & set(mine["cy"])
    assert set(mine["ada"]) == set(mine["bo"]) | set(mine["cy"])
