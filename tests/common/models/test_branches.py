from typing import Any, cast

import pytest
import torch
from torch import nn

from common.config.study import Study
from common.models.branches import (
    SegmentationModel,
    batch_norm_names,
    encoder_of,
    feature_width,
    fresh,
    join_members,
    load_shared,
    member_of,
    network_of,
    segmentation_network,
    shared_state,
)
from common.plan import make_plan
from common.wire.vocabulary import member_tensors, training_tensors


def study_of(**changes: Any) -> Study:
    tables: dict[str, Any] = {
        "name": "s",
        "arms": ["ensemble_adapted", "homogeneous_mim", "simclr", "lower", "lower_plain", "upper"],
        "sites": {"a": {"role": "source"}, "b": {"role": "target"}},
        "model": {
            "preset": "tiny",
            "image_size": 32,
            "options": {"hidden": 48, "mlp": 96, "blocks": 2, "head_channels": 32},
        },
    }
    return Study.model_validate({**tables, **changes})


STUDY = study_of()
PLAN = make_plan(STUDY)
IMAGES = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_each_stage_has_its_network() -> None:
    study = study_of(arms=["ensemble_adapted", "upper"], classes=["x", "y", "z"])
    full = (2, 3, 32, 32)
    expected: dict[str, list[tuple[int, ...]]] = {
        "mim": [(2, 1, 32, 32)],
        "contrastive": [(2, 128)],
        "finetune_mim": [full],
        "finetune_contrastive": [full],
        "upper": [full],
        "adapt": [full, full],
    }
    shapes = {}
    with torch.device("meta"):
        images = torch.empty(2, 1, 32, 32)
        for training in make_plan(study).trainings.values():
            network = network_of(study, training)
            members = network if isinstance(network, nn.ModuleList) else [network]
            shapes[training.stage] = [tuple(member(images).shape) for member in members]
    assert shapes == expected


def test_the_contrastive_network_carries_no_decoder() -> None:
    names = list(shared_state(network_of(STUDY, PLAN.trainings["contrastive/contrastive"])))
    assert all(name.startswith(("network.encoder.", "projection.")) for name in names)


def test_feature_width_is_that_of_the_features() -> None:
    network = segmentation_network(STUDY).eval()
    feature = cast(SegmentationModel, network).feature(IMAGES)
    assert feature.shape == (2, feature_width(STUDY))
    own = study_of(model={"name": "tests.common.models.test_branches:own_model", "image_size": 32})
    assert feature_width(own) == 5


class Own(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 5, 3, padding=1)
        self.out = nn.Conv2d(5, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.encoder(images))
        return logits

    def feature(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(images).mean((2, 3))
        return features


def own_model(*, image_size: int, classes: int) -> Own:
    return Own(classes)


@pytest.mark.parametrize("norm", ["average", "local"])
def test_the_vocabulary_is_what_the_networks_share(norm: str) -> None:
    study = study_of(federation={"norm": norm})
    plan = make_plan(study)
    for training in plan.trainings.values():
        network = fresh(study, training)
        state = shared_state(network, norm)
        specs = training_tensors(study, training)
        assert [spec.name for spec in specs] == list(state)
        for spec in specs:
            assert spec.shape == tuple(state[spec.name].shape)
            assert f"torch.{spec.dtype}" == str(state[spec.name].dtype)
        assert not any(name.endswith("num_batches_tracked") for name in state)
        assert bool(batch_norm_names(network) & set(state)) == (
            norm == "average" and training.stage != "contrastive"
        )
    for member in plan.predictors:
        names = [spec.name for spec in member_tensors(study, plan, member)]
        assert names == list(shared_state(segmentation_network(study), norm))


def test_arms_start_from_one_draw_and_further_members_from_another() -> None:
    states = {key: shared_state(fresh(STUDY, t)) for key, t in PLAN.trainings.items()}

    def same(a: str, b: str) -> bool:
        return all(torch.equal(states[a][name], states[b][name]) for name in states[a])

    assert same("lower/lower", "upper/upper")
    assert same("lower/lower", "lower_plain/lower")
    assert same("lower/lower", "mim/finetune_mim")
    assert same("contrastive/contrastive", "simclr/contrastive")
    assert not same("mim/mim", "homogeneous_mim/mim")
    assert not same("mim/finetune_mim", "homogeneous_mim/finetune_mim")
    again = shared_state(fresh(STUDY, PLAN.trainings["lower/lower"]))
    assert all(torch.equal(again[name], states["lower/lower"][name]) for name in again)
    other = shared_state(fresh(study_of(seed=1), PLAN.trainings["lower/lower"]))
    assert not all(torch.equal(other[name], states["lower/lower"][name]) for name in other)


def test_a_fresh_network_leaves_the_global_draws_alone() -> None:
    before = torch.get_rng_state()
    fresh(STUDY, PLAN.trainings["mim/mim"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("key", ["mim/mim", "contrastive/contrastive"])
def test_pretraining_hands_on_exactly_its_encoder(key: str) -> None:
    pretrained = shared_state(fresh(study_of(seed=5), PLAN.trainings[key]))
    handed = encoder_of(pretrained)
    network = fresh(STUDY, PLAN.trainings["mim/finetune_mim"])
    before = {name: tensor.clone() for name, tensor in shared_state(network).items()}
    assert list(handed) == [name for name in before if name.startswith("encoder.")]
    load_shared(network, handed)
    for name, tensor in shared_state(network).items():
        assert torch.equal(tensor, handed.get(name, before[name])), name
    assert any(not torch.equal(handed[name], before[name]) for name in handed)


def test_members_side_by_side_come_apart_again() -> None:
    states = [{"w": torch.tensor(float(index)), "v.u": torch.ones(2)} for index in range(11)]
    joined = join_members(list(states))
    assert len(joined) == 22
    for index, state in enumerate(states):
        assert member_of(joined, index) == state or all(
            torch.equal(member_of(joined, index)[name], state[name]) for name in state
        )
    training = PLAN.trainings["ensemble_adapted/adapt"]
    members = [shared_state(fresh(STUDY, PLAN.trainings[key])) for key in training.start]
    load_shared(fresh(STUDY, training), join_members(list(members)))


def test_load_shared_takes_no_foreign_tensor() -> None:
    network = fresh(STUDY, PLAN.trainings["lower/lower"])
    with pytest.raises(RuntimeError, match="jane"):
        load_shared(network, {"jane": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_shared(network, {"head.bias": torch.zeros(7)})


def test_batch_norm_names_are_all_of_a_batch_norm_and_no_other_norm() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(2), nn.Conv2d(2, 2, 1)
    )
    assert batch_norm_names(network) == {
        "0.weight", "0.bias", "0.running_mean", "0.running_var", "0.num_batches_tracked"
    }  # fmt: skip
    assert batch_norm_names(nn.BatchNorm1d(2)) == {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip
