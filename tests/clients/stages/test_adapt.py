"""adapt: the members teach themselves at a target, and a source says whether they still know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clients.data.site import SiteData
from clients.stages import adapt
from common.models.branches import batch_norm_names, fresh, segmentation_network, shared_state
from common.wire.records import ERROR_FAILED
from common.wire.vocabulary import training_metrics, training_tensors
from tests.clients.world import Answer, World, equal, world_of

KEY = "ensemble_adapted/adapt"
SELF_KEY = "lower_adapted/adapt"


def test_a_round_without_masks_and_the_same_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise AssertionError("asked for masks or labels")

    for name in ("masks", "labels", "_open_masks"):
        monkeypatch.setattr(SiteData, name, denied)
    start = world.start(KEY)
    first, again = (world.train("bo", KEY, start) for _ in range(2))
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert list(first.weights) == [
        s.name for s in training_tensors(world.study, world.training(KEY))
    ]
    assert list(first.metrics) == list(training_metrics(world.training(KEY)))
    assert first.metrics["examples"] == 16
    assert 0 <= first.metrics["confidence"] <= 1
    assert 0 <= first.metrics["foreground"] <= 1
    moved = {name for name in start if not torch.equal(first.weights[name], start[name])}
    for member in ("0.", "1."):
        assert any(name.startswith(member) and name.endswith("weight") for name in moved)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Decays of the teachers' averages, one a step."""
    seen: list[float] = []
    true_average = adapt.average

    def average(teachers: nn.Module, students: nn.Module, decay: float) -> None:
        seen.append(decay)
        true_average(teachers, students, decay)

    monkeypatch.setattr(adapt, "average", average)
    return seen


def test_the_average_has_its_full_decay_from_the_first_step(
    make_world: Callable[..., World], steps: list[float]
) -> None:
    make_world(arms=["lower_adapted"], adapt={"ema_decay": 0.25}).train("bo", SELF_KEY)
    assert steps == [0.25] * 4


def test_the_average_by_hand() -> None:
    teacher, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for module, value in ((teacher, 1), (student, 5)):
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    adapt.average(teacher, student, 0.75)
    assert {name: float(tensor) for name, tensor in teacher.state_dict().items()} == {
        "weight": 2, "bias": 2, "running_mean": 2, "running_var": 2, "num_batches_tracked": 5
    }  # fmt: skip


OPTIONS: dict[str, dict[str, Any]] = {
    "self": {"adapt": {"teacher": "self"}},
    "no AdaBN": {"adapt": {"adabn": False}},
    "micro-batches": {"compute": {"micro_batch": 2}},
    "bfloat16": {"compute": {"precision": "bfloat16"}},
    "threshold": {"infusion": {"threshold": 0.7}},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, phantom: Any) -> Answer:
    return world_of(tmp_path_factory.mktemp("plain"), phantom).train("bo", KEY)


@pytest.mark.parametrize("change", OPTIONS.values(), ids=list(OPTIONS))
def test_options_run_and_matter(
    make_world: Callable[..., World], plain: Answer, change: dict[str, Any]
) -> None:
    assert not equal(make_world(**change).train("bo", KEY).weights, plain.weights)


def test_a_single_member_teaches_itself(make_world: Callable[..., World]) -> None:
    world = make_world(arms=["lower_adapted"])
    assert world.training(SELF_KEY).start == ("lower/lower",)
    answer = world.train("bo", SELF_KEY)
    assert all(name.startswith("0.") for name in answer.weights)


def test_only_a_source_is_asked_what_members_are_worth(world: World) -> None:
    weights = world.start(KEY)
    metrics = world.ask("ada", "evaluate.adapt", KEY, weights).metrics
    assert set(metrics) == {"val_loss", "val_dice", "val_images", "val_patients"}
    assert (metrics["val_images"], metrics["val_patients"]) == (4, 1)
    assert metrics == world.ask("ada", "evaluate.adapt", KEY, weights).metrics
    reply = world.deliver("bo", world.message("bo", "evaluate.adapt", KEY, weights))
    assert reply.error.code == ERROR_FAILED
    assert "MaskDenied" in world.log("bo")


def test_local_norms_stay_round_after_round(make_world: Callable[..., World]) -> None:
    world = make_world(
        arms=["lower_adapted"],
        federation={"norm": "local"},
        adapt={"rounds": 2, "adabn": False},
    )
    norms = batch_norm_names(fresh(world.study, world.training(SELF_KEY)))
    first = world.train("bo", SELF_KEY)
    assert not norms & set(first.weights)
    second, again = (world.train("bo", SELF_KEY, first.weights, 2) for _ in range(2))
    assert equal(second.weights, again.weights)
    assert second.metrics == again.metrics
    folder = world.site("bo").folder / "norm" / SELF_KEY
    assert sorted(path.name for path in folder.iterdir()) == ["1.safetensors", "2.safetensors"]


def test_local_norms_are_what_a_member_predicts_with(make_world: Callable[..., World]) -> None:
    """Both members hold the same shared weights; only the site's own BatchNorms tell them apart."""
    world = make_world(federation={"norm": "local"})
    world.train("bo", KEY)
    path = world.site("bo").folder / "norm" / "ensemble_adapted" / "adapt" / "1.safetensors"
    kept = load_file(path)
    shared = shared_state(segmentation_network(world.study), "local")
    for name, tensor in kept.items():
        if name.startswith("1.") and tensor.is_floating_point():
            kept[name] = tensor * 1.5 + 0.1
    save_file(kept, path)
    said = []
    for member in (f"{KEY}#0", f"{KEY}#1"):
        world.ask("bo", "evaluate.evaluate", member, shared)
        file = f"{member.replace('/', '.')}.npy"
        said.append(np.load(world.site("bo").folder / "predictions" / file))
    assert not np.array_equal(*said)
