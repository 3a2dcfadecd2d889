"""mim and contrastive at a target: no masks, no hidden state, no surprise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.data.site import SiteData
from common.models.branches import batch_norm_names, fresh
from common.wire.vocabulary import training_metrics, training_tensors
from tests.clients.world import Answer, World, equal, world_of

STAGES = ("mim/mim", "contrastive/contrastive")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask and no label, whoever asks."""

    def denied(*_: Any, **__: Any) -> None:
        raise AssertionError("asked for masks or labels")

    for name in ("masks", "labels", "_open_masks"):
        monkeypatch.setattr(SiteData, name, denied)


@pytest.mark.parametrize("key", STAGES)
@pytest.mark.usefixtures("blind")
def test_a_round_without_masks_and_the_same_again(world: World, key: str) -> None:
    start = world.start(key)
    first = world.train("bo", key, start)
    torch.rand(7)
    np.random.default_rng().random()
    again = world.train("bo", key, start)
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert list(first.weights) == [
        s.name for s in training_tensors(world.study, world.training(key))
    ]
    assert list(first.metrics) == list(training_metrics(world.training(key)))
    assert first.metrics["examples"] == 16
    assert first.metrics["patients"] == 4
    assert not equal(first.weights, start)
    other = world.train("cy", key, start)
    assert not equal(first.weights, other.weights)


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("mim/mim", {"mim": {"epochs": 5, "learning_rate": 2e-3}}),
        (
            "contrastive/contrastive",
            {"contrastive": {"epochs": 5, "batch": 8, "learning_rate": 1e-3}},
        ),
    ],
)
def test_the_loss_falls(make_world: Callable[..., World], key: str, table: dict[str, Any]) -> None:
    world = make_world(model={"dropout": 0.0}, **table)
    answer = world.train("bo", key)
    assert answer.metrics["loss"] < 0.97 * answer.metrics["loss_first"]
    losses = [line["loss"] for line in world.epochs("bo")]
    assert losses[-1] == answer.metrics["loss"]
    assert losses[0] == answer.metrics["loss_first"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> dict[str, Answer]:
    world = world_of(tmp_path_factory.mktemp("plain"), phantom)
    return {key: world.train("bo", key) for key in STAGES}


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise": ("mim/mim", {"mim": {"noise_ratio": 0.5}}),
    "units of two patches": ("mim/mim", {"mim": {"unit_patches": 2}}),
    "micro-batches": ("mim/mim", {"compute": {"micro_batch": 3}}),
    "bfloat16": ("mim/mim", {"compute": {"precision": "bfloat16"}}),
    "sgd, cosine": ("mim/mim", {"mim": {"optimizer": "sgd", "schedule": "cosine"}}),
    "own batch": ("mim/mim", {"mim": {"batch": 8}}),
    "near frames": ("contrastive/contrastive", {"contrastive": {"positives": "near_frames"}}),
    "content": ("contrastive/contrastive", {"contrastive": {"gap": "content"}}),
    "cached": ("contrastive/contrastive", {"compute": {"micro_batch": 3}}),
    "narrow": ("contrastive/contrastive", {"contrastive": {"projection": 8, "jitter": 0.0}}),
}


@pytest.mark.parametrize(("key", "change"), OPTIONS.values(), ids=list(OPTIONS))
def test_options_run_and_matter(
    make_world: Callable[..., World], plain: dict[str, Answer], key: str, change: dict[str, Any]
) -> None:
    world = make_world(**change)
    answer = world.train("bo", key)
    expected = plain[key].weights
    shapes = [tuple(tensor.shape) for tensor in expected.values()]
    assert shapes != [tuple(tensor.shape) for tensor in answer.weights.values()] or not equal(
        answer.weights, expected
    )


def test_gradient_caching_is_the_whole_batch(make_world: Callable[..., World]) -> None:
    """One step of sgd: in micro-batches of 3 views the weights move as in one graph of 8."""
    table = {"epochs": 1, "batch": 16, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0}
    answers = [
        make_world(model={"dropout": 0.0}, contrastive=table, compute=compute).train(
            "bo", "contrastive/contrastive"
        )
        for compute in ({}, {"batch": 16, "micro_batch": 3})
    ]
    for name, tensor in answers[0].weights.items():
        torch.testing.assert_close(answers[1].weights[name], tensor, rtol=1e-3, atol=1e-6)


def test_pairs_are_counted(make_world: Callable[..., World]) -> None:
    """16 images of 4 videos in one batch: 24 of 120 pairs share a video; of them 3 x 4 are next."""
    counts = {}
    for gap in (0, 2, 15):
        world = make_world(contrastive={"batch": 16, "min_frame_gap": gap})
        counts[gap] = world.train("bo", "contrastive/contrastive").metrics
    assert [counts[gap]["pairs_masked"] for gap in (0, 2, 15)] == [0, 12, 24]
    assert {count["pairs_total"] for count in counts.values()} == {120}
    assert all(count["anchors_without_negatives"] == 0 for count in counts.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_bytes_cross(make_world: Callable[..., World], dtype: str) -> None:
    world = make_world(wire={"dtype": dtype})
    answer = world.train("bo", "mim/mim")
    rounded = getattr(torch, dtype)
    for tensor in answer.weights.values():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensor.to(rounded).float())


def test_a_second_round_differs_and_repeats(make_world: Callable[..., World]) -> None:
    world = make_world(mim={"rounds": 2}, federation={"norm": "local"})
    first = world.train("bo", "mim/mim")
    norms = batch_norm_names(fresh(world.study, world.training("mim/mim")))
    assert norms
    assert not norms & set(first.weights)
    second = world.train("bo", "mim/mim", first.weights, 2)
    repeated = world.train("bo", "mim/mim", first.weights, 2)
    assert equal(second.weights, repeated.weights)
    assert second.metrics == repeated.metrics
    # The site's own BatchNorms of the first round were taken up: without them it goes otherwise.
    (world.site("bo").folder / "norm" / "mim" / "mim" / "1.safetensors").unlink()
    assert not equal(second.weights, world.train("bo", "mim/mim", first.weights, 2).weights)


def test_fedprox_pulls_towards_the_start(make_world: Callable[..., World]) -> None:
    """lr x mu < 2 (or sgd would swing): a strong pull keeps every stage near its start."""
    table = {
        "epochs": 1,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    for key in STAGES:
        away = {}
        for mu in (0.0, 40.0):
            world = make_world(
                mim=table,
                contrastive=table,
                federation={"aggregation": "fedprox", "proximal": mu},
                model={"dropout": 0.0},
            )
            start = world.start(key)
            moved = world.train("bo", key, start).weights
            trained = dict(fresh(world.study, world.training(key)).named_parameters())
            away[mu] = sum(float((moved[n] - start[n]).square().sum()) for n in trained)
        assert 0 < away[40.0] < 0.5 * away[0.0], key
