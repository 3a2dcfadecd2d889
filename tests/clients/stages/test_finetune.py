"""finetune_mim, finetune_contrastive, lower at a source, upper at a target."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clients.data.site import SiteData
from clients.site import open_site
from clients.stages import finetune
from clients.training import SegmentationSums
from common.models.branches import batch_norm_names, fresh
from common.wire.records import ERROR_FAILED
from common.wire.vocabulary import training_metrics, training_tensors
from tests.clients.world import Answer, World, equal, world_of


@pytest.mark.parametrize(
    ("site", "key"),
    [
        ("ada", "lower/lower"),
        ("ada", "mim/finetune_mim"),
        ("bo", "upper/upper"),
    ],
)
def test_a_round_and_the_same_again(world: World, site: str, key: str) -> None:
    start = world.start(key)
    first, again = (world.train(site, key, start) for _ in range(2))
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert list(first.weights) == [
        s.name for s in training_tensors(world.study, world.training(key))
    ]
    assert list(first.metrics) == list(training_metrics(world.training(key)))
    assert first.metrics["examples"] == 12
    assert first.metrics["patients"] == 3
    assert (first.metrics["val_images"], first.metrics["val_patients"]) == (4, 1)
    assert first.metrics["best_epoch"] == 1
    assert not equal(first.weights, start)


def test_only_its_own_rows_train(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {"train": set(), "val": set()}
    true_masks = SiteData.masks
    validating = False

    def masks(self: SiteData, indices: Any, *, stage: str) -> Any:
        seen["val" if validating else "train"] |= {int(i) for i in indices}
        assert stage == "lower"
        return true_masks(self, indices, stage=stage)

    true_validate = finetune.validate

    def validate(*arguments: Any) -> SegmentationSums:
        nonlocal validating
        validating = True
        try:
            return true_validate(*arguments)
        finally:
            validating = False

    monkeypatch.setattr(SiteData, "masks", masks)
    monkeypatch.setattr(finetune, "validate", validate)
    world.train("ada", "lower/lower")
    split = open_site(world.site("ada"), world.study.for_sites()).split
    assert seen["train"] <= set(split.train.tolist())
    assert seen["val"] == set(split.val.tolist())
    assert not (seen["train"] | seen["val"]) & set(split.test.tolist())


def test_the_loss_falls_and_the_best_epoch_is_handed_back(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(finetune={"epochs": 5, "learning_rate": 3e-3})
    losses: list[float] = []
    true_validate = finetune.validate

    def validate(*arguments: Any) -> SegmentationSums:
        sums = true_validate(*arguments)
        losses.append(sums.loss)
        return sums

    monkeypatch.setattr(finetune, "validate", validate)
    answer = world.train("ada", "lower/lower")
    epochs = [line["loss"] for line in world.epochs("ada")]
    assert min(epochs) < 0.95 * epochs[0]
    best = losses.index(min(losses))
    assert answer.metrics["best_epoch"] == best + 1
    assert answer.metrics["val_loss"] == losses[best]
    assert answer.metrics["loss"] == epochs[best]
    assert answer.metrics["loss_first"] == epochs[0]
    checked = world.ask("ada", "evaluate.lower", "lower/lower", answer.weights).metrics
    assert checked["val_loss"] == pytest.approx(losses[best], rel=1e-9)
    assert checked["val_dice"] == answer.metrics["val_dice"]


def test_an_early_best_epoch_wins_over_a_later_one(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is made to say that the second of three epochs is the best."""
    said = iter([0.5, 0.2, 0.4, 0.5])
    kept: list[dict[str, Tensor]] = []

    class Said(SegmentationSums):
        @property
        def loss(self) -> float:
            return self.value

        value = 0.0

    def validate(network: torch.nn.Module, *_: Any) -> SegmentationSums:
        sums = Said(1.0, True)
        sums.value = next(said)
        sums.images, sums.hard_sum = 1, 0.5
        kept.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return sums

    monkeypatch.setattr(finetune, "validate", validate)
    answer = make_world(finetune={"epochs": 3}).train("ada", "lower/lower")
    assert answer.metrics["best_epoch"] == 2
    assert answer.metrics["val_loss"] == 0.2
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in answer.weights.items())
    assert not all(torch.equal(tensor, kept[2][name]) for name, tensor in answer.weights.items())


def constant(logits: Tensor, targets: Tensor) -> Tensor:
    """Somebody's own loss."""
    return (logits - 3).square().mean() + 0 * targets.sum()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> Answer:
    return world_of(tmp_path_factory.mktemp("plain"), phantom).train("ada", "lower/lower")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"finetune": {"augmentation": False}},
    "per image": {"finetune": {"pooled": False}},
    "epsilon": {"finetune": {"epsilon": 0.01}},
    "micro-batches": {"compute": {"micro_batch": 2}},
    "bfloat16": {"compute": {"precision": "bfloat16"}},
    "own loss": {"finetune": {"loss": "tests.clients.stages.test_finetune:constant"}},
}


@pytest.mark.parametrize("change", OPTIONS.values(), ids=list(OPTIONS))
def test_options_run_and_matter(
    make_world: Callable[..., World], plain: Answer, change: dict[str, Any]
) -> None:
    assert not equal(make_world(**change).train("ada", "lower/lower").weights, plain.weights)


def test_a_target_is_not_validated_with_what_it_must_not_see(world: World) -> None:
    weights = world.start("lower/lower")
    message = world.message("bo", "evaluate.lower", "lower/lower", weights)
    reply = world.deliver("bo", message)
    assert reply.error.code == ERROR_FAILED
    assert "MaskDenied" in world.log("bo")


def test_local_norms_stay_and_judge_their_own_round(make_world: Callable[..., World]) -> None:
    world = make_world(federation={"norm": "local"}, finetune={"rounds": 2, "epochs": 2})
    norms = batch_norm_names(fresh(world.study, world.training("lower/lower")))
    first = world.train("ada", "lower/lower")
    assert not norms & set(first.weights)
    checked = world.ask("ada", "evaluate.lower", "lower/lower", first.weights).metrics
    assert checked["val_loss"] == pytest.approx(first.metrics["val_loss"], rel=1e-9)
    second, again = (world.train("ada", "lower/lower", first.weights, 2) for _ in range(2))
    assert equal(second.weights, again.weights)
    assert second.metrics == again.metrics
    # The first round, asked again after the second, still answers as it did.
    late = world.train("ada", "lower/lower")
    assert equal(late.weights, first.weights)
    assert late.metrics == first.metrics


def test_fedprox_pulls_towards_the_start(make_world: Callable[..., World]) -> None:
    table = {
        "epochs": 1,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    away = {}
    for mu in (0.0, 40.0):
        world = make_world(
            finetune=table,
            federation={"aggregation": "fedprox", "proximal": mu},
        )
        start = world.start("lower/lower")
        moved = world.train("ada", "lower/lower", start).weights
        trained = dict(fresh(world.study, world.training("lower/lower")).named_parameters())
        away[mu] = sum(float((moved[n] - start[n]).square().sum()) for n in trained)
    assert 0 < away[40.0] < 0.5 * away[0.0]


def write_labelled(folder: Path, patients: int = 6) -> None:
    """A site whose masks number two structures: a bright square is 1, a grey one is 2."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number in range(patients * 2):
        grey = rng.integers(0, 40, (40, 36), dtype=np.uint8)
        labels = np.zeros((40, 36), np.uint8)
        y, x = rng.integers(2, 12, 2)
        labels[y : y + 10, x : x + 10] = 1
        labels[y + 14 : y + 26, x : x + 12] = 2
        grey[labels == 1], grey[labels == 2] = 220, 120
        Image.fromarray(grey).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")
        rows.append([number, f"images/{number}.png", f"masks/{number}.png", f"p{number // 2}"])
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "image", "mask", "patient"], *rows])


def test_several_classes_go_all_the_way(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_labelled(data / "ada")
    shutil.copytree(data / "ada", data / "bo")
    world = world_of(
        tmp_path,
        data,
        sites={"ada": {"role": "source"}, "bo": {"role": "target"}},
        arms=["lower"],
        classes=["bone", "plate"],
        finetune={"epochs": 8, "learning_rate": 3e-3, "batch": 8, "augmentation": False},
        split={"val": 0.17, "test": 0.17},
    )
    world.folders = {"ada": "ada", "bo": "bo"}
    answer = world.train("ada", "lower/lower")
    assert answer.metrics["loss"] < 0.9 * answer.metrics["loss_first"]
    assert answer.weights["head.bias"].shape == (2,)
    world.ask("bo", "evaluate.evaluate", "lower/lower", answer.weights)
    scores = world.ask("bo", "evaluate.evaluate").metrics
    for metric in ("dice", "iou", "hd95"):
        parts = [scores[f"lower.{metric}@{name}.mean"] for name in ("bone", "plate")]
        assert scores[f"lower.{metric}.mean"] == pytest.approx(sum(parts) / 2)
    with (world.site("bo").folder / "scores.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"bone", "plate"}
