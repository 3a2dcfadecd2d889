"""evaluate: members come, probabilities stay, means and tests go; with masks and without."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.data.site import SiteData
from common.models.branches import segmentation_network, shared_state
from common.wire.records import ERROR_REFUSED
from common.wire.vocabulary import evaluation_metrics
from tests.clients.test_app import with_instruction
from tests.clients.world import World, equal, world_of

ARMS = ["ensemble", "lower"]


def predict_all(world: World, site: str) -> None:
    """Send every member of the plan to a site, each with a start of its own."""
    for place, member in enumerate(world.plan.predictors):
        torch.manual_seed(place)
        weights = shared_state(segmentation_network(world.study), world.study.federation.norm)
        answer = world.ask(site, "evaluate.evaluate", member, weights)
        assert answer.metrics == {}
        assert answer.weights == {}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> World:
    """One world whose members have been to every site; `cy` has no masks."""
    root = tmp_path_factory.mktemp("scored")
    blind = root / "data"
    for probe in ("linear_hd", "linear_pocket", "convex"):
        shutil.copytree(phantom / probe, blind / probe)
    manifest = blind / "convex" / "index.csv"
    rows = list(csv.DictReader(manifest.open()))
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "mask": ""} for row in rows)
    shutil.rmtree(blind / "convex" / "masks")
    world = world_of(root, blind, arms=ARMS)
    for site in world.study.sites:
        predict_all(world, site)
    return world


@pytest.mark.parametrize("site", ["ada", "bo"])
def test_a_site_with_masks_answers_with_means_and_tests(scored: World, site: str) -> None:
    metrics = scored.ask(site, "evaluate.evaluate").metrics
    assert metrics == scored.ask(site, "evaluate.evaluate").metrics
    assert set(metrics) <= set(evaluation_metrics(scored.study, scored.plan))
    for arm in ARMS:
        assert metrics[f"{arm}.dice.n_images"] == 4
        assert metrics[f"{arm}.dice.n_patients"] == 1
        assert 0 <= metrics[f"{arm}.iou.mean"] <= metrics[f"{arm}.dice.mean"] <= 1
    assert "ensemble~lower.dice.difference" in metrics
    assert not any("agreement" in name or "area" in name for name in metrics)


def test_a_site_without_masks_answers_with_agreement(
    scored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise AssertionError("asked for masks")

    monkeypatch.setattr(SiteData, "masks", denied)
    metrics = scored.ask("cy", "evaluate.evaluate").metrics
    for name in ("ensemble.agreement.mean", "ensemble.confidence.mean", "lower.area.mean"):
        assert 0 <= metrics[name] <= 1
    assert "lower.agreement.mean" not in metrics
    assert not any("dice" in name or "iou" in name or "hd95" in name for name in metrics)
    enrolled = scored.ask("cy", "query.enrol").metrics
    assert enrolled["masks"] == 0


def test_what_is_of_single_images_stays_at_the_site(scored: World) -> None:
    scored.ask("bo", "evaluate.evaluate")
    folder = scored.site("bo").folder
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(ARMS)
    assert {row["arm"] for row in rows} == set(ARMS)
    for path in (folder / "predictions").glob("*.npy"):
        p_NCHW = np.load(path)
        assert p_NCHW.shape == (4, 1, 32, 32)
        assert p_NCHW.min() >= 0
        assert p_NCHW.max() <= 1


def test_the_threshold_of_the_study_decides(scored: World) -> None:
    """Over all pixels the area falls as the threshold rises."""
    areas = []
    for threshold in (0.01, 0.5, 0.99):
        study = scored.study.model_copy(
            update={"infusion": scored.study.infusion.model_copy(update={"threshold": threshold})}
        )
        world = World(scored.root, scored.phantom, study)
        areas.append(world.ask("cy", "evaluate.evaluate").metrics["ensemble.area.mean"])
    assert areas[0] >= areas[1] >= areas[2]
    assert areas[0] > areas[2]


def test_a_member_that_the_plan_does_not_know_is_refused(world: World) -> None:
    message = world.message("bo", "evaluate.evaluate", "", None)
    reply = world.deliver("bo", with_instruction(message, training="lower/other"))
    assert reply.error.code == ERROR_REFUSED
    assert "no such member" in world.log("bo")


def test_predictions_do_not_depend_on_the_batch(make_world: Callable[..., World]) -> None:
    said = []
    for batch in (2, 4):
        world = make_world(arms=["lower"], compute={"batch": batch})
        predict_all(world, "bo")
        said.append(np.load(world.site("bo").folder / "predictions" / "lower.lower.npy"))
    np.testing.assert_allclose(said[0], said[1], atol=1e-6)


def test_starts_are_equal_wherever_they_are_made(world: World) -> None:
    assert equal(world.start("lower/lower"), world.start("upper/upper"))
