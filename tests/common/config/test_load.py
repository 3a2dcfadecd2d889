"""Reading a study: every mistake at once, in words; overrides; the canonical text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.load import FINETUNES, load_study, parse_study, parse_value
from common.config.study import Study
from common.errors import InputError

SITES = {"a": {"role": "source"}, "b": {"role": "target"}}

STUDIES = [
    path for path in sorted(Path("configs").glob("*.toml")) if path.stem not in ("policy", "site")
]
"""A hospital's policy lies beside the studies and is none."""


def tables(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "sites": SITES, **changes}


def problems(**changes: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_study(tables(**changes), "x.toml")
    assert all(line.startswith("x.toml: ") for line in caught.value.problems)
    return [line.removeprefix("x.toml: ") for line in caught.value.problems]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_the_committed_studies_load(path: Path) -> None:
    study = load_study(path)
    assert Study.model_validate_json(study.canonical()) == study
    assert study.name == path.stem


def test_unknown_keys_are_suggested() -> None:
    found = problems(
        sead=3, mim={"epoch": 2}, sites={**SITES, "c": {"role": "target", "probes": "x"}},
        finetune={"batches": 4}, compute={"xyz": 1},
    )  # fmt: skip
    assert "sead: unknown key; did you mean 'seed'?" in found
    assert "mim.epoch: unknown key; did you mean 'epochs'?" in found
    assert "sites.c.probes: unknown key; did you mean 'probe'?" in found
    assert "finetune.batches: unknown key; did you mean 'batch'?" in found
    (far,) = [line for line in found if line.startswith("compute.xyz")]
    assert "there are device" in far
    assert len(found) == 5  # [finetune] stands for four tables, and is said once


def test_a_misspelt_finetune_table_is_suggested() -> None:
    assert problems(finetunes={"epochs": 3}) == ["finetunes: unknown key; did you mean 'finetune'?"]


def test_values_out_of_range() -> None:
    found = problems(
        mim={"ratio": 1.5, "epochs": 0}, adapt={"ema_decay": 1}, seed="many",
        federation={"aggregation": "mode"}, infusion={"confidence": "luck"},
        split={"val": 0.6, "test": 0.5}, arms=["ensemble", "magic"],
    )  # fmt: skip
    keys = {line.partition(":")[0] for line in found}
    for key in ("mim.ratio", "mim.epochs", "adapt.ema_decay", "seed", "federation.aggregation",
                "infusion.confidence", "split"):  # fmt: skip
        assert key in keys, (key, found)
    assert any(line.startswith("arms: no arm 'magic'") for line in found)
    assert any("given: 1.5" in line for line in found)
    assert not any("[" in line.partition(":")[0] for line in found)


def test_infinity_is_no_number() -> None:
    assert problems(adapt={"bound": float("inf")})


def test_what_does_not_fit_together_is_said_at_once() -> None:
    found = problems(
        sites={"a": {"role": "source"}, "b/c": {"role": "source", "probe": "convex"}},
        arms=["mim", "mim"],
        model={"image_size": 40},
        lower={"participants": ["z"], "from_weights": True},
        compute={"micro_batch": 8},
        mim={"batch": 4, "participants": []},
    )
    text = "\n".join(found)
    for words in (
        'no site has role = "target"', "mim is named twice", "40 does not tile",
        "lower.participants: 'z' is none of", "no file is named in [model] weights",
        "mim.batch: 4 is smaller", "mim.participants: name at least one", "sites.b/c",
        "names a probe, but the study has no [phantom]",
    ):  # fmt: skip
        assert words in text


def test_a_mistyped_arm_is_one_sentence() -> None:
    found = problems(arms=["dual", "randm", "mim", "my_strategies", "my-own:best", 3])
    assert found[0] == "arms: no arm 'randm'; did you mean 'random'?"
    assert found[1].startswith("arms: no arm 'my_strategies'; there are ensemble, ")
    assert found[2:] == [
        "arms: no arm 'my-own:best'; a strategy of your own is written package.module:name",
        "arms: no arm 3",
    ]


def test_a_cohort_and_what_cannot_go_with_it() -> None:
    arms = ["dual", "dual_cohort"]
    (found,) = problems(arms=arms, score={"min_cohort": 5})
    assert found.startswith("score.min_cohort: 5, but the arm dual_cohort has a cohort of 5")
    for own, cohort in ((arms, 0), (["dual"], 5)):
        (found,) = problems(arms=own, score={"clusters": 13, "min_cohort": cohort})
        assert found.startswith("score.clusters: 13, but with a minimum cohort at most 12")
    for study in (
        tables(arms=["dual"], score={"clusters": 13}),
        tables(arms=["random"], score={"clusters": 13, "min_cohort": 5}),
        tables(arms=["dual_k3"], score={"clusters": 13, "min_cohort": 5}),
        tables(arms=arms, score={"clusters": 12, "min_cohort": 1}),
    ):
        parse_study(study, "x.toml")


def test_no_source_no_target() -> None:
    only = {"a": {"role": "target"}}
    assert problems(sites=only) == ['no site has role = "source": nobody can teach']
    assert any("target" in line for line in problems(sites={"a": {"role": "source"}}))
    assert len(problems(sites={})) == 2
    with pytest.raises(InputError, match="sites: field required"):
        parse_study({"name": "x"}, "x")


def test_finetune_is_what_five_tables_have_in_common() -> None:
    study = parse_study(tables(finetune={"epochs": 7}, upper={"epochs": 9, "batch": 4}), "x")
    assert [getattr(study, name).epochs for name in FINETUNES] == [7, 7, 7, 9, 7]
    assert study.upper.batch == 4


def test_a_mistake_is_said_where_it_stands() -> None:
    assert problems(finetune={"epochs": 3}, lower={"epochs": 0})[0].startswith("lower.epochs")
    (one,) = problems(finetune={"epochs": 0}, lower={"batch": 4})
    assert one.startswith("finetune.epochs")


def test_tables_that_are_no_tables() -> None:
    assert problems(finetune=3, seed=-1)[0] == "finetune: input should be a table (given: 3)"
    assert len(problems(finetune=3, seed=-1)) == 2
    assert problems(mim=3)
    assert problems(lower=3, finetune={"epochs": 2})
    assert problems(sites=3)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('name = "x"\n[sites.a]\nrole = "source"\n[sites.b]\nrole = "target"\n')
    study = load_study(
        path,
        ["mim.epochs=5", "model.preset=tiny", 'arms=["mim", "lower"]', "wire.dtype = bfloat16",
         "sites.c.role=target", "finetune.epochs=3", "sites.b.where={ device = \"GE*\" }"],
    )  # fmt: skip
    assert study.mim.epochs == 5
    assert study.arms == ("mim", "lower")
    assert study.model.preset == "tiny"
    assert study.wire.dtype == "bfloat16"
    assert study.targets == ("b", "c")
    assert study.lower.epochs == 3
    assert study.sites["b"].where == {"device": "GE*"}
    for wrong in ("mim.epochs", "=3", "mim..epochs=3", "name.x=3"):
        with pytest.raises(InputError, match="--set"):
            load_study(path, [wrong])
    with pytest.raises(InputError, match=r"mim\.epoch: unknown key"):
        load_study(path, ["mim.epoch=3"])


def test_files_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such study"):
        load_study(tmp_path / "none.toml")
    for name, content in (("a.toml", b"a ="), ("b.toml", b"\xff\xfe"), ("c.toml", b"a=1\na=2")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not readable as TOML"):
            load_study(tmp_path / name)
    with pytest.raises(InputError, match="not readable"):
        load_study(tmp_path)


def test_values() -> None:
    assert [parse_value(t) for t in ("3", "1e-3", "true", "[1, 2]", '"a"', "a b", "")] == [
        3, 1e-3, True, [1, 2], "a", "a b", "",
    ]  # fmt: skip


@given(st.text(max_size=30))
def test_any_text_is_a_value(text: str) -> None:
    parse_value(text)


def test_the_canonical_text_is_one(tmp_path: Path) -> None:
    one = parse_study(tables(mim={"epochs": 5}, seed=1), "x")
    other = parse_study({"seed": 1, "mim": {"epochs": 5}, "sites": SITES, "name": "x"}, "y")
    assert one.canonical() == other.canonical()
    assert one.digest == other.digest
    assert parse_study(tables(seed=1), "x").digest != one.digest
    assert json.loads(one.canonical())["mim"]["epochs"] == 5


def test_what_crosses_names_no_place() -> None:
    study = parse_study(
        tables(
            sites={
                "a": {"role": "source", "folder": "secret", "where": {"device": "secret"}},
                "b": {"role": "target", "probe": "convex", "columns": {"patient": "secret"}},
            },
            phantom={},
            model={"weights": "/secret/file.npz"},
        ),
        "x",
    )
    text = study.for_sites().canonical()
    assert "secret" not in text
    assert Study.model_validate_json(text).sites["b"].role == "target"


def test_a_wrong_key_does_not_hide_what_does_not_fit_together() -> None:
    tables = {
        "name": "x",
        "seeed": 1,
        "sites": {"a": {"role": "source"}},
        "mim": {"ratio": 2},
        "model": {"image_size": 65},
    }
    with pytest.raises(InputError) as caught:
        parse_study(tables, "x.toml")
    said = "\n".join(caught.value.problems)
    for part in ("seeed: unknown key", "mim.ratio", 'role = "target"', "65 does not tile"):
        assert part in said
