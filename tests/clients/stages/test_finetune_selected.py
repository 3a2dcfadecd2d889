"""finetune_selected: the ensemble's branches on the masks of what experts annotated."""

from collections.abc import Callable
from typing import Any

import pytest

from clients.data.site import SiteData
from clients.norm import last_norm
from clients.request import Request
from clients.site import open_site, training_rows
from common.wire.records import ERROR_INPUT
from tests.clients.classifying import annotate
from tests.clients.world import World, equal

CHANGES: dict[str, Any] = {
    "arms": ["ensemble", "ensemble_selected", "random"],
    "select": {"budgets": [0.5]},
    "finetune_selected": {"epochs": 2, "learning_rate": 1e-3},
    "classify": {"architectures": ["test_efficientnet"]},
    "sphere": {"architecture": "test_efficientnet"},
}
KEY = "ensemble_selected_50/mim-finetune_mim/finetune_selected"


@pytest.fixture
def selected(make_world: Callable[..., World]) -> World:
    return chosen(make_world(**CHANGES))


def chosen(world: World, count: int = 6) -> World:
    """Experts have annotated so many of bo's pool."""
    study = world.study.for_sites()
    data = open_site(world.site("bo"), study)
    ids = [data.rows[row].id for row in training_rows(data, "select")[:count]]
    annotate(world.site("bo"), "random", 0.5, dict.fromkeys(ids, "benign"))
    return world


def test_a_round_and_the_same_again(selected: World) -> None:
    start = selected.start(KEY)
    first, again = (selected.train("bo", KEY, start) for _ in range(2))
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert set(first.metrics) == {"examples", "patients", "loss", "loss_first"}
    assert first.metrics["examples"] == 6
    assert not equal(first.weights, start)
    assert len(selected.epochs("bo")) == 4  # two requests of two epochs


def test_only_the_annotated_masks_are_read(
    selected: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    true_masks = SiteData.masks

    def masks(self: SiteData, indices: Any, *, stage: str) -> Any:
        seen.update(self.rows[i].id for i in indices)
        assert stage == "annotate"
        return true_masks(self, indices, stage=stage)

    monkeypatch.setattr(SiteData, "masks", masks)
    selected.train("bo", KEY)
    data = open_site(selected.site("bo"), selected.study.for_sites())
    assert seen <= {data.rows[row].id for row in training_rows(data, "select")[:6]}
    assert len(seen) >= 4  # the last, short batch of an epoch is left for the next shuffle


def test_it_goes_on_where_the_source_stopped(selected: World) -> None:
    """Another start, another end; and the last epoch comes back, not the best."""
    start = selected.start(KEY)
    other = {name: tensor + 0.01 for name, tensor in start.items()}
    one = selected.train("bo", KEY, start)
    assert not equal(one.weights, selected.train("bo", KEY, other).weights)
    assert one.metrics["loss"] == selected.epochs("bo")[1]["loss"]


def test_local_norms_begin_with_the_sites_own(make_world: Callable[..., World]) -> None:
    world = chosen(make_world(**CHANGES, federation={"norm": "local"}))
    answer = world.train("bo", KEY)
    assert not [name for name in answer.weights if "running_mean" in name]
    study = world.study.for_sites()
    request = Request(world.site("bo"), study, world.plan, "finetune_selected", KEY)
    kept = last_norm(request, KEY)
    assert kept is not None
    means = [tensor for name, tensor in kept.items() if name.endswith("running_mean")]
    assert all(float(mean.abs().max()) > 0 for mean in means)


def test_without_a_mask_it_says_so(selected: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_site(selected.site("bo"), selected.study.for_sites())
    monkeypatch.setattr(data, "has_mask", data.has_mask & False)
    reply = selected.deliver(
        "bo", selected.message("bo", "train.finetune_selected", KEY, selected.start(KEY))
    )
    assert reply.error.code == ERROR_INPUT
    assert "none of the 6 annotated images of random has a mask" in selected.log("bo")
