"""Reference statistics that cross: what a consortium's bundle flags frames by."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clients.exchanges import manifest_of
from clients.phantom.write import generate
from clients.reference import site_reference
from clients.site import open_site
from clients.site_list import read_sites
from common.config.load import parse_study
from common.errors import InputError
from common.ledger_check import read
from scripts.export import reference_of
from scripts.simulate import Engine, run_study_here
from server.bundle import export as bundles
from tests.bundles import STUDY
from tests.tiny import tiny

TABLES = {**STUDY, "name": "given", "arms": ["ensemble"], "finetune": {"epochs": 1},
          "evaluate": {"bootstrap": 100, "overlays": 0, "reference": True}}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two sites with eight patients and four."""
    place = tmp_path_factory.mktemp("given")
    for probe, patients in (("linear_hd", 8), ("linear_pocket", 4)):
        drawn = place / f"drawn-{patients}"
        generate(drawn, anatomy="wrist", probes=(probe,), patients=patients, frames=4, side=48)
        shutil.copytree(drawn / probe, place / "data" / probe)
    return run_study_here(
        tiny(**TABLES), Engine.inprocess, place / "data", place / "run", resume=False
    )


def test_what_the_site_gave_is_what_its_images_say(run: Path) -> None:
    opened = bundles.open_run(run)
    config, ensemble = bundles.assemble(opened)
    given = reference_of(opened, ensemble, config)
    assert given is not None
    assert list(given.sites) == ["ada"]
    ada = read_sites(run / "sites" / "sites.json")[0]
    taken = site_reference(open_site(ada, opened.study.for_sites()), ensemble)
    assert taken is not None
    theirs, ours = given.sites["ada"].model_dump(), taken.model_dump()
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        if isinstance(value, dict):
            assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        else:
            np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_site_with_too_few_patients_gives_nothing(run: Path) -> None:
    state = json.loads((run / "state" / "reference.json").read_text())
    assert state["none"] == {"bo": "too few patients"}
    assert not (run / "state" / "reference.bo.safetensors").exists()
    assert not (run / "sites" / "bo" / "reference").exists()
    events = [line.event for line in read(run / "sites" / "bo" / "ledger.jsonl")]
    told = [e for e in events if e["kind"] == "reply" and e["message"] == "query.reference"]
    assert told[-1]["metrics"]["patients"] == 0


def test_of_other_members_it_says_nothing(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "run"))
    path = other / "state" / "reference.json"
    state = json.loads(path.read_text())
    state["members"] = dict.fromkeys(state["members"], "0" * 64)
    path.write_text(json.dumps(state))
    opened = bundles.open_run(other)
    config, ensemble = bundles.assemble(opened)
    (other / "sites" / "sites.json").unlink()
    assert reference_of(opened, ensemble, config) is None


def test_a_killed_run_asks_only_what_is_left(run: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    (again / "results.json").unlink()
    asked = sum(1 for _ in read(again / "sites" / "ada" / "ledger.jsonl"))
    data = run.parent / "data"
    run_study_here(tiny(**TABLES), Engine.inprocess, data, again, resume=True)
    new = list(read(again / "sites" / "ada" / "ledger.jsonl"))[asked:]
    assert not [line for line in new if line.event.get("message") == "query.reference"]


def test_only_a_study_that_asks_has_such_messages() -> None:
    names = manifest_of(tiny(**TABLES)).exchanges
    assert "query.reference" in names
    assert names["query.reference"].up[1].shape == (13, 13)
    assert not [n for n in manifest_of(tiny()).exchanges if n.startswith("query.reference")]


def test_wrong_studies() -> None:
    with pytest.raises(InputError, match=r"evaluate\.reference: needs wire\.dtype"):
        parse_study({**TABLES, "wire": {"dtype": "bfloat16"}}, "given")
