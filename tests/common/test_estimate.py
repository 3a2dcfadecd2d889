"""The estimate: its parts by hand, and that more of anything never takes less."""

from pathlib import Path

import pytest

from common.config.load import load_study
from common.config.study import Study
from common.estimate import (
    BASE_BYTES,
    Memory,
    evaluation_traffic,
    fitting_jobs,
    micro_batch,
    payload,
    server_memory,
    steps,
    training_memory,
    training_traffic,
)
from common.models.branches import network_of
from common.plan import make_plan

DEMO = Path("configs/demo.toml")


def demo(*overrides: str) -> Study:
    return load_study(DEMO, ["model.image_size=32", "compute.batch=4", *overrides])


def memory(key: str, *overrides: str) -> Memory:
    study = demo(*overrides)
    return training_memory(study, make_plan(study).trainings[key])


def test_parts_by_hand() -> None:
    study = demo()
    training = make_plan(study).trainings["lower/lower"]
    network = network_of(study, training)
    numbers = sum(p.numel() for p in network.parameters())
    found = training_memory(study, training)
    assert found.parameters == numbers == 2_935_625
    assert found.gradients == 4 * numbers
    assert found.optimizer == 8 * numbers  # AdamW: two numbers a parameter
    assert found.weights >= 4 * numbers
    assert found.copies == found.weights + 3 * payload(study, training, "float32")
    assert found.activations is not None
    assert found.total == BASE_BYTES + found.weights + 12 * numbers + found.copies + (
        found.activations
    )


def test_optimisers() -> None:
    one = memory("mim/mim")
    assert memory("mim/mim", "mim.optimizer=sgd").optimizer == one.gradients
    assert memory("mim/mim", "mim.optimizer=sgd", "mim.momentum=0").optimizer == 0
    anchored = memory("mim/mim", "federation.aggregation=fedprox")
    assert anchored.copies == one.copies + one.gradients


def test_activations_grow_with_images_and_side() -> None:
    def activations(*overrides: str) -> int:
        return memory("lower/lower", *overrides).activations or 0

    base = activations()
    # Not twice: the standardised weights of the ResNet are kept whatever the batch.
    images = (activations("compute.batch=8") - base) / 4
    assert activations("compute.batch=16") == pytest.approx(base + 12 * images, rel=0.02)
    assert 0 < base - 4 * images < base / 2
    assert activations("compute.batch=8", "compute.micro_batch=4") == base
    assert activations("model.image_size=64") > 3 * base
    both = memory("ensemble_adapted/adapt")
    assert both.activations == pytest.approx(2 * base, rel=0.02)
    assert both.parameters == 2 * 2_935_625


def test_the_contrastive_stage_sees_two_views() -> None:
    study = demo("contrastive.batch=6")
    training = make_plan(study).trainings["contrastive/contrastive"]
    assert micro_batch(study, training) == 12
    study = demo("contrastive.batch=6", "compute.micro_batch=4")
    assert micro_batch(study, make_plan(study).trainings["contrastive/contrastive"]) == 4


def test_jobs_end_where_memory_does() -> None:
    study = demo("compute.jobs=4")
    plan = make_plan(study)
    one = max(training_memory(study, t).total for t in plan.trainings.values())
    server = server_memory(study, plan)
    assert fitting_jobs(study, plan, 10**12, 4) == 4
    assert fitting_jobs(study, plan, server + 2 * one + 1, 4) == 2
    assert fitting_jobs(study, plan, 0, 4) == 1


def test_traffic_by_hand() -> None:
    study = demo()
    plan = make_plan(study)
    one = payload(study, plan.trainings["lower/lower"], "float32")
    # One source: its own validation holds for the mean, so nothing is asked again.
    assert training_traffic(study, plan.trainings["lower/lower"]) == {
        "riverside": {"down": 2 * one, "up": 2 * one}
    }
    # Two targets: after each of two rounds the mean goes down once more to be judged.
    upper = training_traffic(study, plan.trainings["upper/upper"])
    assert upper == {site: {"down": 4 * one, "up": 2 * one} for site in ("hillcrest", "lakeview")}
    # Two members side by side; the source judges before the first and after each round.
    adapt = training_traffic(study, plan.trainings["ensemble_adapted/adapt"])
    assert adapt["riverside"] == {"down": 2 * one * 3, "up": 0}
    assert adapt["hillcrest"] == {"down": 2 * one * 2, "up": 2 * one * 2}
    members = len(plan.predictors)
    assert evaluation_traffic(study, plan) == {
        site: {"down": members * one, "up": 0} for site in study.sites
    }
    half = demo("wire.dtype=bfloat16")
    assert payload(half, plan.trainings["lower/lower"], half.wire.dtype) * 2 == one


def test_steps() -> None:
    study = demo()
    training = make_plan(study).trainings["mim/mim"]
    # 2 rounds x 8 epochs x 10 // 4 full batches; what is unknown is left out.
    assert steps(study, training, {"hillcrest": 10}) == {"hillcrest": 32}


def test_a_study_without_trainings() -> None:
    study = load_study(Path("configs/lung_frames.toml"), ['arms=["untrained"]'])
    plan = make_plan(study)
    assert not plan.trainings
    assert fitting_jobs(study, plan, 10**10, 3) == 3
    assert set(evaluation_traffic(study, plan)) == set(study.sites)
