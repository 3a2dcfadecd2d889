import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.data.site import SiteData
from clients.request import Request
from clients.training import (
    Progress,
    Proximal,
    SegmentationSums,
    accumulated,
    adapt_batch_norm,
    autocast,
    batches,
    make_optimizer,
    proximal_of,
    rate_factor,
    read_ahead,
    run_epochs,
    to_unit,
)
from common.config.stages import Compute, Finetune, Mim, Rounds
from common.lines import append_line
from common.objectives.dice_bce import dice_bce
from tests.clients.world import World


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_schedule_runs_over_all_rounds() -> None:
    constant = Rounds(rounds=3, epochs=4)
    assert {rate_factor(constant, done) for done in (0, 1.4, 3)} == {1.0}
    cosine = Rounds(rounds=3, epochs=4, schedule="cosine")
    assert rate_factor(cosine, 0) == 1.0
    assert rate_factor(cosine, 1.5) == pytest.approx(0.5)
    assert rate_factor(cosine, 1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert rate_factor(cosine, 3) == pytest.approx(0.0)
    factors = [rate_factor(cosine, done / 16) for done in range(49)]
    assert factors == sorted(factors, reverse=True)


@settings(deadline=None)
@given(count=st.integers(0, 50), batch=st.integers(2, 12), seed=st.integers(0, 99))
def test_batches_are_full_and_repeat_nothing(count: int, batch: int, seed: int) -> None:
    rows = np.arange(100, 100 + count)
    made = list(batches(rows, batch, np.random.default_rng(seed)))
    assert len(made) == count // batch
    assert all(len(one) == batch for one in made)
    seen = [int(row) for one in made for row in one]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(rows.tolist())
    again = list(batches(rows, batch, np.random.default_rng(seed)))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


def test_what_an_epoch_leaves_out_comes_in_another() -> None:
    generator = np.random.default_rng(0)
    seen = {int(r) for _ in range(20) for one in batches(np.arange(7), 4, generator) for r in one}
    assert seen == set(range(7))


class Plain(nn.Module):
    """A network without BatchNorm or dropout."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.mark.parametrize("micro", [1, 3, 4, 12, 50, None])
def test_micro_batches_add_up_to_the_batch(micro: int | None) -> None:
    x, y = torch.randn(12, 5, generator=draws()), torch.randn(12, 1, generator=draws(1))
    rows = np.array([3, 1, 0, 7, 11, 5, 2, 4, 6, 10])
    network, whole = Plain(), Plain()

    def loss(chosen: np.ndarray) -> Tensor:
        return nn.functional.mse_loss(network(x[chosen]), y[chosen])

    total = accumulated(loss, micro, network)(rows)
    expected = ((whole(x[rows]) - y[rows]) ** 2).mean()
    expected.backward()
    assert total == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_proximal_gradient_by_hand() -> None:
    network = nn.Linear(2, 1, bias=True)
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    network.register_parameter("frozen", frozen)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.bias.fill_(0.5)
    anchor = Proximal(network, 0.1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, -2.0]]))
    x = torch.tensor([[1.0, 10.0]])

    def loss(_: np.ndarray) -> Tensor:
        return network(x).sum()  # type: ignore[no-any-return]

    accumulated(loss, None, network, anchor)(np.arange(1))
    assert network.weight.grad is not None
    assert network.bias.grad is not None
    # d loss / dw = x, and mu (w - w_round) = .1 (2, -4).
    torch.testing.assert_close(network.weight.grad, torch.tensor([[1.2, 9.6]]))
    torch.testing.assert_close(network.bias.grad, torch.tensor([1.0]))
    assert frozen.grad is None


def test_the_proximal_term_is_fedproxs(make_world: Callable[..., World]) -> None:
    world = make_world(federation={"aggregation": "fedprox", "proximal": 0.3})
    site = world.site("bo")
    request = Request(site, world.study, world.plan, "mim", "mim/mim")
    anchor = proximal_of(request, Plain())
    assert anchor is not None
    assert anchor.mu == 0.3
    plain = make_world()
    assert proximal_of(Request(site, plain.study, plain.plan, "mim", "mim/mim"), Plain()) is None


def _request(tmp_path: Path, stage: Rounds, batch: int = 4, round_: int = 1) -> Request:
    """As much of a request as the loop reads."""
    return cast(
        Request,
        SimpleNamespace(
            training=SimpleNamespace(settings=stage),
            study=SimpleNamespace(seed=3, compute=Compute(batch=batch)),
            site=SimpleNamespace(name="ada", folder=tmp_path),
            target="lower/lower",
            stage="lower",
            round=round_,
        ),
    )


def _run(tmp_path: Path, stage: Rounds, round_: int = 1, rows: int = 10) -> dict[str, Any]:
    network = Plain()
    optimizer = make_optimizer(network.parameters(), stage)
    seen: dict[str, Any] = {"rates": [], "rows": [], "epochs": [], "steps": 0, "training": []}

    def step(chosen: np.ndarray) -> float:
        seen["rates"].append(optimizer.param_groups[0]["lr"])
        seen["rows"].append(chosen.tolist())
        seen["training"].append(network.training)
        network(torch.ones(len(chosen), 5)).mean().backward()
        return float(len(seen["rows"]))

    def after_epoch(epoch: int, loss: float) -> None:
        seen["epochs"].append((epoch, loss))
        network.eval()

    def after_step() -> None:
        seen["steps"] += 1

    data = cast(SiteData, SimpleNamespace(clusters=np.arange(rows) // 2))
    progress = run_epochs(
        _request(tmp_path, stage, round_=round_),
        data,
        network,
        np.arange(rows),
        step,
        optimizer,
        after_epoch=after_epoch,
        after_step=after_step,
    )
    seen["losses"] = progress.epoch_losses
    return seen


def test_epochs_are_walked_as_the_study_says(tmp_path: Path) -> None:
    seen = _run(tmp_path, Finetune(epochs=3, learning_rate=0.1, optimizer="sgd"))
    assert seen["steps"] == 6
    assert seen["rates"] == [0.1] * 6
    assert seen["training"] == [True] * 6
    assert seen["losses"] == [1.5, 3.5, 5.5]
    assert seen["epochs"] == [(0, 1.5), (1, 3.5), (2, 5.5)]
    assert len({str(rows) for rows in seen["rows"]}) == 6
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [(1, 1.5), (2, 3.5), (3, 5.5)]


def test_the_rate_goes_on_where_the_round_before_stopped(tmp_path: Path) -> None:
    stage = Mim(rounds=2, epochs=2, learning_rate=1.0, schedule="cosine", optimizer="sgd")
    rates = _run(tmp_path, stage)["rates"] + _run(tmp_path, stage, round_=2)["rates"]
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates == pytest.approx(expected)


def test_rounds_draw_differently_and_a_repeated_round_alike(tmp_path: Path) -> None:
    stage = Mim(rounds=2, epochs=2)
    first, again, second = (_run(tmp_path, stage, round_=r)["rows"] for r in (1, 1, 2))
    assert first == again
    assert first != second


def test_a_stages_own_batch_wins(tmp_path: Path) -> None:
    seen = _run(tmp_path, Mim(epochs=1, batch=2))
    assert [len(rows) for rows in seen["rows"]] == [2] * 5


def test_weight_decay_couples_in_adam_only() -> None:
    """With no gradient from the loss, decoupled decay shrinks a weight by exactly lr x decay."""
    moved = {}
    for kind in ("adamw", "adam", "sgd"):
        weight = nn.Parameter(torch.ones(1))
        stage = Rounds.model_validate(
            {"optimizer": kind, "learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.0}
        )
        optimizer = make_optimizer([weight], stage)
        weight.grad = torch.zeros(1)
        optimizer.step()
        moved[kind] = float(weight)
    assert moved["adamw"] == pytest.approx(0.95)
    assert moved["sgd"] == pytest.approx(0.95)
    assert moved["adam"] == pytest.approx(0.9)


def test_autocast_is_what_the_study_asks() -> None:
    x = torch.ones(2, 2)
    for precision in ("float32", "bfloat16"):
        with autocast(Compute.model_validate({"precision": precision})):
            assert (x @ x).dtype == getattr(torch, precision)


def test_bytes_become_unit_floats() -> None:
    images = np.array([[[0, 255], [51, 102]]], np.uint8)
    unit = to_unit(images, "cpu")
    assert unit.shape == (1, 1, 2, 2)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit[0, 0], torch.tensor([[0.0, 1.0], [0.2, 0.4]]))


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    append_line(path, {"a": 1})
    append_line(path, {"b": 2})
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n'


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3))
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(images))
        return out


@pytest.mark.parametrize("training", [True, False])
def test_adabn_is_the_plain_mean_over_the_batches(training: bool) -> None:
    network = Normed().train(training)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(7)  # type: ignore[union-attr]
                module.running_var.fill_(7)  # type: ignore[union-attr]
    kept = {name: p.clone() for name, p in network.named_parameters()}
    images = [torch.rand(n, 1, 6, 6, generator=draws(n)) for n in (4, 4, 2)]
    adapt_batch_norm(network, iter(images))
    norm = network.first[1]
    assert isinstance(norm, nn.BatchNorm2d)
    convolved = [network.first[0](batch).detach() for batch in images]
    means = torch.stack([c.mean((0, 2, 3)) for c in convolved]).mean(0)
    variances = torch.stack([c.var((0, 2, 3), unbiased=True) for c in convolved]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.3
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(p, kept[name]) for name, p in network.named_parameters())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapt_batch_norm(network, iter(images))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_adabn_leaves_a_network_without_batch_norm_alone() -> None:
    def never() -> Any:
        raise AssertionError("no image is needed")
        yield

    adapt_batch_norm(Plain(), never())


@settings(deadline=None, max_examples=25)
@given(
    images=st.integers(1, 9),
    classes=st.integers(1, 3),
    batch=st.integers(1, 9),
    pooled=st.booleans(),
    epsilon=st.sampled_from([0.1, 1.0]),
    seed=st.integers(0, 999),
)
def test_validation_is_the_training_loss_over_the_whole_set(
    images: int, classes: int, batch: int, pooled: bool, epsilon: float, seed: int
) -> None:
    logits = torch.randn(images, classes, 6, 5, generator=draws(seed), dtype=torch.float64) * 2
    masks = (torch.rand(logits.shape, generator=draws(seed + 1)) > 0.7).double()
    masks[0] = 0
    sums, whole = SegmentationSums(epsilon, pooled), SegmentationSums(epsilon, pooled)
    for start in range(0, images, batch):
        sums.add(logits[start : start + batch].sigmoid(), masks[start : start + batch])
    whole.add(logits.sigmoid(), masks)
    expected = dice_bce(logits, masks, epsilon=epsilon, pooled=pooled)
    assert sums.loss == pytest.approx(float(expected), rel=1e-9)
    assert sums.loss == pytest.approx(whole.loss, rel=1e-12)
    assert sums.dice == pytest.approx(whole.dice, rel=1e-12)
    assert sums.images == images
    hard = (logits > 0).double()
    overlap, size = (hard * masks).sum((2, 3)), hard.sum((2, 3)) + masks.sum((2, 3))
    assert sums.dice == pytest.approx(float(((2 * overlap + 1) / (size + 1)).mean()))


def test_sure_probabilities_have_a_finite_loss() -> None:
    sums = SegmentationSums(1.0, pooled=True)
    sums.add(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]]))
    assert math.isfinite(sums.loss)
    assert sums.loss > 10


def test_reading_ahead_changes_no_batch_and_reads_each_once() -> None:
    asked: list[list[int]] = []

    def images(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(rows.tolist())
        return np.zeros((len(rows), 2, 2), np.uint8)

    data = cast(SiteData, SimpleNamespace(images=images))
    drawn = [np.arange(start, start + 3) for start in range(0, 15, 3)]
    plain = [rows.tolist() for rows in read_ahead(data, iter(drawn), 0)]
    assert not asked
    ahead = [rows.tolist() for rows in read_ahead(data, iter(drawn), 2)]
    assert ahead == plain == [rows.tolist() for rows in drawn]
    assert sorted(asked) == sorted(plain)


def test_a_reply_names_the_patients_that_were_trained_on() -> None:
    progress = Progress(examples=8, patients=3, epoch_losses=[3.0, 1.0, 2.0])
    expected = {"examples": 8, "patients": 3, "loss_first": 3.0}
    assert progress.metrics() == {**expected, "loss": 2.0}
    assert progress.metrics(1) == {**expected, "loss": 1.0}
