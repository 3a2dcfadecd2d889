"""From arms to trainings."""

from typing import Any

import pytest

from common.config.arms import ENCODER_ARMS, SEGMENTATION_ARMS
from common.config.load import parse_study
from common.config.study import Study
from common.plan import Plan, make_plan, split_member

ROLES = {"s1": "source", "s2": "source", "t1": "target", "t2": "target"}
PLAIN = [arm for arm in SEGMENTATION_ARMS if arm not in ("untrained", "ensemble_selected")]


def study(*arms: str, roles: dict[str, str] = ROLES, **tables: Any) -> Study:
    sites = {name: {"role": role} for name, role in roles.items()}
    return parse_study({"name": "x", "sites": sites, "arms": list(arms), **tables}, "x")


def plan(*arms: str, **tables: Any) -> Plan:
    return make_plan(study(*arms, **tables))


def test_equal_trainings_are_there_once() -> None:
    found = plan("ensemble", "mim", "contrastive", "ensemble_entropy", "ensemble_adapted")
    assert list(found.trainings) == [
        "mim/mim",
        "mim/finetune_mim",
        "contrastive/contrastive",
        "contrastive/finetune_contrastive",
        "ensemble_adapted/adapt",
    ]
    assert found.arms["mim"].members["t1"] == ("mim/finetune_mim",)
    fused = ("mim/finetune_mim", "contrastive/finetune_contrastive")
    assert found.arms["ensemble"].members == dict.fromkeys(ROLES, fused)


def test_simclr_is_the_contrastive_branch_where_the_gap_is_0() -> None:
    assert "simclr/contrastive" in plan("contrastive", "simclr").trainings
    same = plan("contrastive", "simclr", contrastive={"min_frame_gap": 0})
    assert list(same.trainings) == ["contrastive/contrastive", "contrastive/finetune_contrastive"]
    assert same.arms["simclr"].members == same.arms["contrastive"].members


def test_lower_plain_is_lower_where_nothing_is_augmented() -> None:
    assert "lower_plain/lower" in plan("lower", "lower_plain").trainings
    same = plan("lower", "lower_plain", finetune={"augmentation": False})
    assert list(same.trainings) == ["lower/lower"]


def test_confidences() -> None:
    found = plan("ensemble_margin", "ensemble_mean", "ensemble")
    kinds = {name: arm.infusion.confidence for name, arm in found.arms.items()}
    assert kinds == {"ensemble_margin": "margin", "ensemble_mean": "mean", "ensemble": "entropy"}


def test_who_takes_part() -> None:
    found = plan("ensemble_adapted", "upper", "lower")
    who = {key: training.participants for key, training in found.trainings.items()}
    assert who["mim/mim"] == who["upper/upper"] == ("t1", "t2")
    assert who["mim/finetune_mim"] == who["lower/lower"] == ("s1", "s2")
    assert who["ensemble_adapted/adapt"] == ("t1", "t2")
    fewer = plan(
        "ensemble_adapted", "upper", mim={"participants": ["t2"]}, upper={"participants": ["t1"]},
        finetune_mim={"participants": ["s2"]}, adapt={"participants": ["t1"]},
    )  # fmt: skip
    who = {key: training.participants for key, training in fewer.trainings.items()}
    assert who["mim/mim"] == ("t2",)
    assert who["mim/finetune_mim"] == ("s2",)
    assert who["contrastive/contrastive"] == ("t1", "t2")
    assert who["upper/upper"] == ("t1",)
    assert who["ensemble_adapted/adapt"] == ("t1",)


def test_starts_come_before_what_starts_from_them() -> None:
    found = plan(*PLAIN)
    seen: set[str] = set()
    for key, training in found.trainings.items():
        assert training.key == key
        assert set(training.start) <= seen
        seen.add(key)
    for arm in found.arms.values():
        assert {split_member(m)[0] for ms in arm.members.values() for m in ms} <= seen


def test_homogeneous_members_have_seeds_and_gaps_of_their_own() -> None:
    found = plan("homogeneous_mim", "homogeneous_contrastive", "homogeneous_mixed").trainings
    assert [found[k].member for k in ("mim/mim", "homogeneous_mim/mim")] == [0, 1]
    gaps = {
        key: getattr(training.settings, "min_frame_gap", None)
        for key, training in found.items()
        if training.stage == "contrastive"
    }
    assert gaps == {
        "contrastive/contrastive": 15,
        "homogeneous_contrastive/contrastive": 15,
        "homogeneous_mixed/contrastive": 20,
    }
    members = {found[key].member for key in gaps}
    assert members == {0, 1, 2}


def test_per_site_pretraining_makes_an_ensemble_a_target() -> None:
    found = plan("ensemble", "lower", pretrain={"scope": "per_site"})
    assert found.trainings["mim/mim@t1"].participants == ("t1",)
    assert found.trainings["mim/mim@t2"].participants == ("t2",)
    assert found.trainings["mim/finetune_mim@t2"].start == ("mim/mim@t2",)
    members = found.arms["ensemble"].members
    assert members["t1"] == ("mim/finetune_mim@t1", "contrastive/finetune_contrastive@t1")
    assert members["s1"] == members["t1"] + members["t2"]
    assert found.arms["lower"].members["t1"] == ("lower/lower",)


def test_one_target_needs_no_name_behind_the_key() -> None:
    roles = {"s": "source", "t": "target"}
    found = make_plan(study("ensemble", roles=roles, pretrain={"scope": "per_site"}))
    assert "mim/mim" in found.trainings


def test_adapted_members() -> None:
    found = plan("ensemble_adapted", "lower_adapted")
    adapted = found.arms["ensemble_adapted"].members
    both = ("ensemble_adapted/adapt#0", "ensemble_adapted/adapt#1")
    assert adapted == dict.fromkeys(ROLES, both)
    alone = found.trainings["lower_adapted/adapt"]
    assert alone.start == ("lower/lower",)
    assert getattr(alone.settings, "teacher", "") == "self"
    assert split_member("ensemble_adapted/adapt#1") == ("ensemble_adapted/adapt", 1)
    assert split_member("lower/lower") == ("lower/lower", 0)


def test_adaptation_a_site() -> None:
    found = plan("ensemble_adapted", adapt={"scope": "per_site", "participants": ["t1", "t2"]})
    members = found.arms["ensemble_adapted"].members
    assert members["t1"] == ("ensemble_adapted/adapt@t1#0", "ensemble_adapted/adapt@t1#1")
    assert members["t2"] == ("ensemble_adapted/adapt@t2#0", "ensemble_adapted/adapt@t2#1")
    assert members["s1"] == members["t1"] + members["t2"]
    assert found.trainings["ensemble_adapted/adapt@t1"].participants == ("t1",)


def test_predictors() -> None:
    found = plan("mim", "lower")
    assert found.predictors == {
        "mim/finetune_mim": tuple(ROLES),
        "lower/lower": tuple(ROLES),
    }


@pytest.mark.parametrize("arm", ENCODER_ARMS)
def test_representations_end_with_the_encoder(arm: str) -> None:
    found = plan(arm, evaluate={"kind": "representation"})
    assert all(t.stage in ("mim", "contrastive") for t in found.trainings.values())
    assert len(found.trainings) == (arm != "untrained")


@pytest.mark.parametrize("arm", PLAIN)
def test_both_sides_derive_the_same_plan(arm: str) -> None:
    here = study(arm, model={"weights": "at/home.npz"}, phantom={"side": 64})
    there = Study.model_validate_json(here.for_sites().canonical())
    assert make_plan(here) == make_plan(there)
