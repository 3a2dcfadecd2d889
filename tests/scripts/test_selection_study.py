"""A study that chooses images, from the sites to the report, in the engine that people use."""

import csv
import json
from pathlib import Path

import pytest
import torch

from clients.memorisation import Memorisation
from clients.stages import diffusion
from common.errors import InputError
from common.formats import read_results
from scripts.dry_run import dry_run
from scripts.simulate import Engine, run_study_here
from server.checkpoint import RunFolder
from server.context import StudyStopped
from tests.tiny import CHOOSING, choosing, worklists_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("choosing")
    study = choosing(evaluate={"bootstrap": 100, "overlays": 2})
    return run_study_here(study, Engine.inprocess, place, place / "run", resume=False)


def test_every_arm_is_judged_at_every_target(run: Path) -> None:
    results = read_results(run / "results.json")
    assert results.selection is not None
    found = {(cell.arm, cell.budget) for cell in results.selection.cells}
    assert found == {("dual", 0.4), ("entropy", 0.4), ("coreset", 0.4), ("source_only", 0.0)}
    for cell in results.selection.cells:
        assert set(cell.sites) == {"east", "west"}
        assert set(cell.pooled) == {"accuracy", "balanced_accuracy", "auroc"}
    assert set(results.arms) == {"ensemble_selected_40"}
    assert results.selection.memorisation["threshold"] == 1.0
    assert set(results.selection.reconstruction) == {"north", "east", "west"}


def test_the_pooled_budget_is_kept_over_both_sites(run: Path) -> None:
    pool = 2 * 2 * 6  # two targets, two frames, six of eight patients
    for arm in ("dual", "entropy"):
        wanted = [len(text.splitlines()) - 1 for path, text in worklists_of(run).items()
                  if f"/{arm}/" in path]  # fmt: skip
        assert sum(wanted) == -(-4 * pool // 10), (arm, wanted)


def test_no_name_and_no_single_image_reaches_the_server(run: Path) -> None:
    ids = set()
    for path in run.glob("sites/*/selection/**/worklist.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            ids |= {row["id"] for row in csv.DictReader(file)}
    assert ids
    own = [path for path in run.rglob("*") if path.is_file()
           and "sites" not in path.relative_to(run).parts
           and path.suffix in (".json", ".jsonl", ".html")]  # fmt: skip
    assert len(own) > 10
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in ids if name in text], path


def test_of_a_linear_probe_only_the_last_layer_leaves_a_site(tmp_path: Path) -> None:
    settings = {**CHOOSING["classify"], "trained": "last_layer", "rounds": 2}
    study = choosing(arms=["random"], classify=settings)
    run = run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "run", resume=False)
    folder = RunFolder(run)
    cell = "random/40/shufflenet_v2_x0_5/classify"
    source, probe = (
        folder.checkpoint(key).result(folder.checkpoint(key).load(key))
        for key in ("shufflenet_v2_x0_5/source_classifier", cell)
    )
    assert list(probe) == list(source)
    moved = {name for name in source if not torch.equal(source[name], probe[name])}
    assert moved == {"network.fc.weight", "network.fc.bias"}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = [e for e in events if e["event"] == "reply" and e["training"] == cell]
    layer = 4 * (2 * 1024 + 2)
    assert {e["bytes_up"] for e in rounds} == {layer}
    assert {e["bytes_down"] > 100 * layer for e in rounds} == {True}


def test_pages_are_written(run: Path) -> None:
    assert "selection" in (run / "report.html").read_text(encoding="utf-8").lower()
    for site in ("east", "west"):
        assert (run / "sites" / site / "selection.html").stat().st_size > 10_000
    assert not (run / "sites" / "north" / "selection.html").exists()


def test_a_model_that_redraws_its_images_stops_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What such a model is, and that the figure finds it: tests/clients/test_memorisation.py.
    figures = Memorisation(8, 8, features=0.05, correlation=0.6, bound_features=0.1,
                           bound_correlation=0.2)  # fmt: skip
    monkeypatch.setattr(diffusion, "figures_of", lambda *_, **__: figures)
    tables = {**CHOOSING["diffusion"], "memorisation_threshold": 0.1}
    study = choosing(arms=["dual"], diffusion=tables)
    with pytest.raises(StudyStopped, match="reproduce training images"):
        run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "run", resume=False)
    kept = json.loads((tmp_path / "run/sites/north/memorisation.json").read_text())
    assert kept["released"] is False
    assert not list((tmp_path / "run/state/source").rglob("*.safetensors"))


def test_wrong_input_is_said_before_anything_runs(tmp_path: Path) -> None:
    study = choosing(labels=["benign", "other"], score={"clusters": 900, "restarts": 2})
    with pytest.raises(InputError) as error:
        run_study_here(study, Engine.inprocess, tmp_path, tmp_path / "run", resume=False)
    assert any("has the label 'malignant'" in problem for problem in error.value.problems)
    with pytest.raises(InputError, match=r"900 clusters \(dual\) are more than the 24 images"):
        run_study_here(choosing(score={"clusters": 900}), Engine.inprocess, tmp_path,
                       tmp_path / "run", resume=False)  # fmt: skip
    with pytest.raises(InputError) as error:
        run_study_here(choosing(arms=["dual", "dual_far", "random"], score={"clusters": 900},
                                select={"budgets": [0.01]}), Engine.inprocess, tmp_path,
                       tmp_path / "run", resume=False)  # fmt: skip
    assert error.value.problems == [  # each once, however many arms it concerns
        "score.clusters: 900 clusters (dual, dual_far) are more than the 24 images to select from",
        "select: a budget of 0.01 of 24 images (dual, random) gives no site more than 1, and a "
        "classifier needs 2 to train on; raise it",
    ]
    missing = choosing(source_classifier={"weights": {"shufflenet_v2_x0_5": "no/such/file"}})
    with pytest.raises(InputError, match="no such file"):
        run_study_here(missing, Engine.inprocess, tmp_path, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_of_both_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(choosing(), tmp_path)
    told = capsys.readouterr().out
    assert "source/diffusion" in told
    assert "a pool of 24 images, each redrawn in 2 steps" in told
