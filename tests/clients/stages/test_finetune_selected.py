"""finetune_selected: the ensemble's branches on the masks of what experts annotated."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clients.consensus import Rules, write_rules
from clients.data.cache import Digests
from clients.data.preprocess import square_mask
from clients.data.readers import read_pillow
from clients.data.site import SiteData
from clients.norm import last_norm
from clients.request import Request
from clients.selected import outlined
from clients.site import open_site, training_rows
from clients.words import Outline, add_outlines, mask_file, outline_path, utc
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


def draw(world: World, place: int, mask: np.ndarray[Any, Any]) -> str:
    """An expert outlines one of the pool's images."""
    site = world.site("bo")
    data = open_site(site, world.study.for_sites())
    row = data.rows[training_rows(data, "select")[place]]
    name, content = mask_file(mask, 0)
    digest = Digests(site.cache).of(row.image)
    line = Outline(row.id, name, "Dr A", utc("2027-03-01"), digest)
    add_outlines(site.folder, [line], {name: content})
    return name


def size_of(world: World) -> tuple[int, int]:
    data = open_site(world.site("bo"), world.study.for_sites())
    height, width = read_pillow(data.rows[0].image).shape
    return height, width


def test_what_experts_drew_is_trained_on(selected: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three outlines at a site whose manifest has no mask at all: those three, and no other."""
    data = open_site(selected.site("bo"), selected.study.for_sites())
    monkeypatch.setattr(data, "has_mask", data.has_mask & False)
    mask = np.zeros(size_of(selected), np.uint8)
    mask[10:30, 5:25] = 1
    for place in range(3):
        draw(selected, place, mask)
    site, study = selected.site("bo"), selected.study.for_sites()
    found = outlined(site, study, "random", 0.5, data)
    pool = training_rows(data, "select")
    assert found.rows.tolist() == sorted(pool[:3].tolist())
    wanted = square_mask(mask, data.side, 0)
    assert np.array_equal(found.masks(found.rows), np.stack([wanted[None]] * 3))
    start = selected.start(KEY)
    first, again = (selected.train("bo", KEY, start) for _ in range(2))
    assert first.metrics["examples"] == 3
    assert equal(first.weights, again.weights)
    assert not equal(first.weights, start)


def test_an_outline_counts_before_the_manifests_mask(selected: World) -> None:
    data = open_site(selected.site("bo"), selected.study.for_sites())
    site, study = selected.site("bo"), selected.study.for_sites()
    before = outlined(site, study, "random", 0.5, data)
    row = int(training_rows(data, "select")[0])
    place = before.rows.tolist().index(row)
    assert before.masks(before.rows)[place].any()
    draw(selected, 0, np.zeros(size_of(selected), np.uint8))
    after = outlined(site, study, "random", 0.5, data)
    assert after.rows.tolist() == before.rows.tolist()
    masks = after.masks(after.rows)
    assert not masks[place].any()
    others = np.delete(masks, place, 0)
    assert np.array_equal(others, np.delete(before.masks(before.rows), place, 0))


def test_a_drawn_mask_that_was_changed_is_refused(selected: World) -> None:
    name = draw(selected, 0, np.ones(size_of(selected), np.uint8))
    outline_path(selected.site("bo").folder, name).write_bytes(b"x")
    reply = selected.deliver(
        "bo", selected.message("bo", "train.finetune_selected", KEY, selected.start(KEY))
    )
    assert reply.error.code == ERROR_INPUT
    assert "is not the mask that was drawn" in selected.log("bo")


def test_a_label_that_waits_for_its_outline_is_no_training_image(selected: World) -> None:
    write_rules(selected.site("bo").folder, Rules(outlines=True))
    draw(selected, 0, np.ones(size_of(selected), np.uint8))
    data = open_site(selected.site("bo"), selected.study.for_sites())
    site, study = selected.site("bo"), selected.study.for_sites()
    assert len(outlined(site, study, "random", 0.5, data).rows) == 1
