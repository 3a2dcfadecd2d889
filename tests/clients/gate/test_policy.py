"""The one function that judges: what no rule allows is refused, and why is said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import common
from clients.exchanges import manifest_of, simulation_policy
from clients.gate import manifest
from clients.gate.facts import InstructionFacts, ReplyFacts
from clients.gate.payload import read_instruction, read_reply
from clients.gate.policy import Policy, judge, leaves
from clients.gate.policy_file import load_file, load_policy, parse
from clients.gate.rules import (
    Bundles,
    Cohort,
    Limits,
    Normalisation,
    Release,
    Rule,
    StageRules,
    StudyEntry,
)
from common.errors import InputError
from common.wire.crossing import STEPS
from common.wire.gate import (
    REFUSED_COHORT,
    REFUSED_CONTENT,
    REFUSED_INSTRUCTION,
    REFUSED_RELEASE,
    REFUSED_SIZE,
    REFUSED_UPDATE,
)
from tests.clients.gate.world import (
    MANIFEST,
    METRICS,
    NUMBERS,
    STUDY,
    instruction,
    policy,
    replaced,
    reply_to,
    with_exchange,
)
from tests.tiny import tiny

TEMPLATE = Path(common.__file__).parents[1] / "configs" / "policy.toml"
ASKED = read_instruction(instruction())
REPLY = read_reply(reply_to(instruction()), instruction())


def refusal(
    rules: Policy, reply: ReplyFacts | None = REPLY, asked: InstructionFacts = ASKED, **more: Any
) -> tuple[int, str]:
    verdict = judge(rules, asked, reply, **more)
    assert verdict.passes == (not verdict.why)
    return verdict.code, "\n".join(verdict.why)


def test_the_honest_pass() -> None:
    assert refusal(policy(), None) == (0, "")
    assert refusal(policy()) == (0, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": {**STUDY, "name": "knee"}}, "study 'knee': the site takes no part in it"),
        ({"message": "train.lower"}, "stage 'lower': the site takes no part in it"),
        ({"message": "evaluate.mim"}, "the manifest of wrist has no such message"),
        ({"training": "other/mim"}, "the manifest of wrist has no such message"),
        ({"step": "deeper"}, "the manifest of wrist has no such message"),
        ({"study": {**STUDY, "open": 1}}, "study, 'open': no rule allows this key"),
        ({"study": {**STUDY, "mim": {"epochs": 11}}}, "study, 'mim.epochs': 11 is above 10"),
        ({"study": {**STUDY, "mim": {"epochs": 2.5}}}, "2.5 is no whole number"),
        ({"study": {**STUDY, "mim": {"epochs": True}}}, "True is no number"),
        ({"study": {**STUDY, "mim": {"epochs": "2"}}}, "'2' is no number"),
        ({"tensors": ASKED.tensors[:-1]}, "weights in: histogram: is missing"),
        ({"tensors": ()}, "weights in: conv.weight: is missing, with 4 more"),
    ],
)
def test_what_a_site_does_not_take_part_in(change: dict[str, Any], words: str) -> None:
    code, why = refusal(policy(), None, replaced(ASKED, **change))
    assert code == REFUSED_INSTRUCTION
    assert words in why
    # A reply to what may not come in does not leave either.
    assert refusal(policy(), REPLY, replaced(ASKED, **change)) == (code, why)


def test_only_approved_code_runs() -> None:
    bundle = "ab" * 32
    asked = replaced(ASKED, bundle=bundle)
    closed = policy(bundles=Bundles())
    assert "is not approved" in refusal(closed, None, asked)[1]
    assert "code without a digest: is not approved" in refusal(closed, None)[1]
    assert refusal(policy(bundles=Bundles(approved=(bundle,))), None, asked) == (0, "")
    listed = Policy(closed.file, closed.manifests, frozenset({bundle}))
    assert refusal(listed, None, asked) == (0, "")
    assert refusal(listed, None)[0] == REFUSED_INSTRUCTION


def _other(place: int, **changes: Any) -> tuple[Any, ...]:
    tensors = list(REPLY.tensors)
    tensors[place] = replaced(tensors[place], **changes)
    return tuple(tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensors": ()}, "conv.weight: is missing"),
        ({"tensors": REPLY.tensors[::-1]}, "conv.weight: is not in the manifest's order"),
        ({"tensors": (*REPLY.tensors, REPLY.tensors[0])}, "is not in the manifest's order"),
        ({"tensors": _other(0, name="image")}, "'image': is not in the manifest"),
        ({"tensors": _other(0, dtype="uint16")}, "conv.weight: is 'uint16' [2, 3], the manifest"),
        ({"tensors": _other(0, shape=(3, 2))}, "the manifest says float32 [2, 3]"),
        ({"tensors": _other(0, finite=False)}, "conv.weight: holds NaN or infinity"),
        ({"tensors": _other(4, high=1001)}, "histogram: 1001 is above 1000"),
        ({"tensors": _other(4, low=-1)}, "histogram: -1 is below 0"),
        ({"metrics": {"loss": 0.5}}, "metric patients: is missing"),
        ({"metrics": {**NUMBERS, "Jane Doe": 1}}, "metric 'Jane Doe': is not in the manifest"),
        ({"metrics": {**NUMBERS, "loss": 11.0}}, "metric loss: 11.0 is above 10"),
        ({"metrics": {**NUMBERS, "loss": 1}}, "metric loss: is no number"),
        ({"metrics": {**NUMBERS, "patients": 12.0}}, "metric patients: is no count"),
        ({"metrics": {**NUMBERS, "patients": 2**62}}, "is above 1000"),
    ],
)
def test_only_the_exact_manifest_leaves(change: dict[str, Any], words: str) -> None:
    code, why = refusal(policy(), replaced(REPLY, **change))
    assert code == REFUSED_CONTENT
    assert words in why


def test_the_manifests_own_range_holds_beside_the_policys() -> None:
    wide = policy(metrics={"*": Rule()})
    assert refusal(wide, replaced(REPLY, metrics={**NUMBERS, "loss": 11.0})) == (0, "")
    assert (
        "101.0 is above 100"
        in refusal(wide, replaced(REPLY, metrics={**NUMBERS, "loss": 101.0}))[1]
    )


def test_a_scalar_or_histogram_without_a_rule_stays() -> None:
    assert "metric loss: no rule" in refusal(policy(metrics={"patients": Rule()}))[1]
    assert refusal(
        policy(metrics={"patients": Rule()}, stages={"mim": StageRules(metrics={"l*": Rule()})})
    ) == (0, "")
    assert "histogram: no rule in [integers]" in refusal(policy(integers={}))[1]


def test_an_incomplete_reply_passes_only_where_the_manifest_says_so() -> None:
    some = replaced(REPLY, metrics={"patients": 12})
    assert refusal(policy(), some)[0] == REFUSED_CONTENT
    assert refusal(policy(with_exchange(complete=False)), some) == (0, "")


@pytest.mark.parametrize(("count", "passes"), [(0, True), (1, False), (4, False), (5, True)])
def test_no_answer_about_too_few(count: int, passes: bool) -> None:
    metrics = {"patients": METRICS["patients"].model_copy(update={"low": 0})}
    rules = policy(with_exchange(metrics=metrics))
    code, why = refusal(rules, replaced(REPLY, metrics={"patients": count}))
    assert (code == 0) == passes
    if not passes:
        assert (code, why) == (
            REFUSED_COHORT, f"metric patients: {count} are fewer than 5",
        )  # fmt: skip
        alone = policy(with_exchange(metrics=metrics), cohort=Cohort(minimum=1))
        assert refusal(alone, replaced(REPLY, metrics={"patients": count})) == (0, "")


def test_bytes_have_a_limit_a_message_and_a_day() -> None:
    size = REPLY.bytes / 1e6
    assert refusal(policy(limits=Limits(message_mb=size, day_mb=size))) == (0, "")
    for limits in (Limits(message_mb=size * 0.99), Limits(day_mb=size * 0.99)):
        assert refusal(policy(limits=limits))[0] == REFUSED_SIZE
    day = policy(limits=Limits(day_mb=2 * size))
    assert refusal(day, sent_today=REPLY.bytes) == (0, "")
    assert refusal(day, sent_today=REPLY.bytes + 1)[0] == REFUSED_SIZE
    narrow = policy(stages={"mim": StageRules(message_mb=size * 0.99)})
    assert refusal(narrow)[0] == REFUSED_SIZE


def test_an_update_is_held_against_what_came_in() -> None:
    """||out - in|| / ||in|| over all tensors, by hand: numpy over the arrays themselves."""
    import numpy as np

    from tests.clients.gate.world import arrays

    def flat(shift: float) -> Any:
        parts = arrays(shift)
        half = (parts["half"].numpy().astype(np.uint32) << 16).view(np.float32)
        rest = [parts[n].numpy().ravel() for n in ("conv.weight", "norm.running_mean", "scale")]
        return np.concatenate([half, *rest]).astype(np.float64)

    ratio = np.linalg.norm(flat(0.3) - flat(0)) / np.linalg.norm(flat(0))
    moved = read_reply(reply_to(instruction(), arrays(0.3)), instruction())
    for bound, passes in ((ratio * 1.0001, True), (ratio * 0.9999, False)):
        rules = policy(stages={"mim": StageRules(update_norm=float(bound))})
        assert refusal(rules, moved)[0] == (0 if passes else REFUSED_UPDATE)
    unmeasured = read_reply(reply_to(instruction(), arrays(300.0)))
    assert refusal(policy(stages={"mim": StageRules()}), unmeasured) == (0, "")


def test_statistics_of_normalisation_stay_where_the_policy_says_so() -> None:
    code, why = refusal(policy(normalisation=Normalisation(statistics=False)))
    assert code == REFUSED_CONTENT
    assert why == "norm.running_mean: statistics of normalisation do not leave this site"


@pytest.mark.parametrize(
    ("metrics", "passes"),
    [
        ({}, False),
        ({"memorisation_features": 0.0}, False),
        ({"memorisation_features": 0.0, "memorisation_correlation": 0.0999}, True),
        ({"memorisation_features": 0.0, "memorisation_correlation": 0.10}, False),
        ({"memorisation_features": 0.9, "memorisation_correlation": 0.0}, False),
    ],
)
def test_weights_that_can_draw_leave_only_with_their_figure(
    metrics: dict[str, float], passes: bool
) -> None:
    share = dict.fromkeys(Release().metrics, METRICS["loss"])
    rules = policy(
        with_exchange(metrics=METRICS | share, complete=False),
        metrics={"*": Rule()},
        release=Release(stages=("mim",)),
    )
    code, _ = refusal(rules, replaced(REPLY, metrics=NUMBERS | metrics))
    assert code == (0 if passes else REFUSED_RELEASE)
    # Figures alone tell nothing that could be drawn.
    none = replaced(REPLY, tensors=())
    assert judge(policy(with_exchange(up=()), release=Release(stages=("mim",))), ASKED, none).passes


def test_a_code_passes_without_content() -> None:
    assert refusal(policy(), ReplyFacts(error=1003)) == (0, "")


def test_the_same_arguments_give_the_same_verdict() -> None:
    bad = replaced(REPLY, metrics={"loss": 99.0, "Jane": 1})
    assert judge(policy(), ASKED, bad) == judge(policy(), ASKED, bad)
    assert len(judge(policy(), ASKED, bad).why) == 3


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1, max_size=5), inner),
        max_leaves=8,
    )
)
def test_every_value_of_a_study_is_under_some_key(value: Any) -> None:
    words = json.dumps(value)
    found = [leaf for _, leaf in leaves({"top": value}) if leaf is not None]
    assert all(json.dumps(leaf) in words for leaf in found)
    assert sum(1 for _ in leaves({"top": value})) >= 1


def test_a_long_foreign_word_is_cut_short_in_reasons() -> None:
    code, why = refusal(policy(), None, replaced(ASKED, message="train." + "x" * 500))
    assert code == REFUSED_INSTRUCTION
    assert len(why) < 150


# The file.


def test_the_template_is_sound_and_fits_a_study_of_today(tmp_path: Path) -> None:
    file = load_file(TEMPLATE)
    study = tiny(arms=["ensemble", "lower", "ensemble_adapted"])
    crossing = json.loads(study.for_sites().canonical())
    rules = Policy(
        file.model_copy(
            update={
                "studies": {"tiny": StudyEntry(manifest="tiny.json", sha256="0" * 64)},
                "bundles": Bundles(any=True),
            }
        ),
        {"tiny": manifest_of(study)},
    )
    asked = InstructionFacts("query.enrol", crossing, study.for_sites().digest)
    assert refusal(rules, None, asked) == (0, "")
    for key, value, words in (
        ("arms", ["ensemble", "my_package.mine:Strategy"], "study, 'arms': 'my_package.mine:Stra"),
        ("federation", {"aggregation": "a.b:C"}, "'federation.aggregation': 'a.b:C' is not of"),
        ("split", {}, "study, 'split.test': is not there, and a rule says what it must be"),
    ):
        code, why = refusal(rules, None, replaced(asked, study={**crossing, key: value}))
        assert code == REFUSED_INSTRUCTION
        assert words in why


@pytest.mark.parametrize(
    "said",
    [{}, *({"count_bucket": step} for step in (None, [], [10], 10.0, "10"))],
)
def test_a_rule_for_one_key_is_not_evaded_by_leaving_it_out(said: dict[str, Any]) -> None:
    rules = policy(study={"*": Rule(), "federation.count_bucket": Rule(low=10)})
    study = {**STUDY, "federation": {"count_bucket": 10}}
    assert refusal(rules, None, replaced(ASKED, study=study)) == (0, "")
    for evasive in ({**STUDY, "federation": said}, {**STUDY, "federation": None}, STUDY):
        code, why = refusal(rules, None, replaced(ASKED, study=evasive))
        assert code == REFUSED_INSTRUCTION
        assert "count_bucket" in why


def test_this_very_study_and_no_other_of_its_name() -> None:
    digest = ASKED.study_digest
    entry = StudyEntry(manifest="wrist.json", sha256="0" * 64, digest=digest)
    assert refusal(policy(studies={"wrist": entry}), None) == (0, "")
    other = entry.model_copy(update={"digest": "1" * 64})
    code, why = refusal(policy(studies={"wrist": other}), None)
    assert code == REFUSED_INSTRUCTION
    assert digest in why
    assert "1" * 64 in why


def test_a_text_has_its_form() -> None:
    rule = Rule(text="[a-z]+")
    assert rule.problem("median") == ""
    for value in ("a.b:C", "median\n", "", 3, True):
        assert "is not of the form [a-z]+" in rule.problem(value)
    with pytest.raises(InputError, match="no regular expression"):
        parse(
            {
                "site": "w",
                "studies": {},
                "stages": {},
                "metrics": {},
                "study": {"a": {"text": "("}},
            },
            "p.toml",
        )


def test_unknown_keys_and_bad_values_are_named_together(tmp_path: Path) -> None:
    tables = {
        "site": "west", "studies": {}, "stages": {"mim": {"update_nrom": 1.0}}, "metrics": {},
        "study": {"seed": {"hihg": 3}}, "limits": {"message_mb": -1}, "cohrt": {},
        "bundles": {"approved": "x"},
    }  # fmt: skip
    with pytest.raises(InputError) as caught:
        parse(tables, "p.toml")
    said = "\n".join(caught.value.problems)
    for words in (
        "p.toml: stages.mim.update_nrom: unknown key; did you mean 'update_norm'?",
        "study.seed.hihg: unknown key; did you mean 'high'?",
        "cohrt: unknown key; did you mean 'cohort'?",
        "limits.message_mb: input should be greater than 0 (given: -1)",
        "bundles.approved",
    ):
        assert words in said
    with pytest.raises(InputError, match=r"p\.toml: metrics: is missing"):
        parse({"site": "west", "studies": {}, "stages": {}, "study": {}}, "p.toml")


def _write(folder: Path, sha256: str, name: str = "wrist.json") -> Path:
    path = folder / "policy.toml"
    path.write_text(
        f'site = "west"\nmetrics = {{}}\nstudy = {{}}\nstages = {{}}\n[studies.wrist]\n'
        f'manifest = "{name}"\nsha256 = "{sha256}"\n'
    )
    return path


def test_a_policy_reads_only_the_manifest_whose_digest_it_holds(tmp_path: Path) -> None:
    (tmp_path / "wrist.json").write_text(manifest.dump(MANIFEST))
    loaded = load_policy(_write(tmp_path, manifest.digest(MANIFEST)))
    assert loaded.manifests["wrist"] == MANIFEST
    assert loaded.file.digest == load_file(tmp_path / "policy.toml").digest
    with pytest.raises(InputError, match="not the 0000"):
        load_policy(_write(tmp_path, "0" * 64))
    with pytest.raises(InputError, match="No such file"):
        load_policy(_write(tmp_path, "0" * 64, "none.json"))
    with pytest.raises(InputError, match="no such policy"):
        load_policy(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("site = ")
    with pytest.raises(InputError, match="not readable as TOML"):
        load_policy(tmp_path / "broken.toml")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"format":"sonofed-manifest-1"}', '{"format":"other"}',
        manifest.dump(MANIFEST) + "\n", manifest.dump(MANIFEST).replace("float32", "float64", 1),
        manifest.dump(MANIFEST).replace('"complete": true', '"complete": 1'),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_none(text: str) -> None:
    with pytest.raises(InputError):
        manifest.load(text, "m.json")


def test_a_manifest_survives_its_file() -> None:
    whole = manifest_of(tiny())
    again = manifest.load(manifest.dump(whole), "m.json")
    assert again == whole
    assert manifest.digest(again) == manifest.digest(whole)


def test_a_manifest_does_not_change_with_what_does_not_cross() -> None:
    assert manifest.digest(manifest_of(tiny(seed=9))) == manifest.digest(manifest_of(tiny()))
    other = tiny(wire={"dtype": "bfloat16"})
    assert manifest.digest(manifest_of(other)) != manifest.digest(manifest_of(tiny()))


def test_the_steps_are_those_that_the_sites_code_and_the_server_know() -> None:
    """A step that a stage's code asks for and the table lacks would be refused in every study."""
    root = Path(common.__file__).parents[1]
    for stage, steps in STEPS.items():
        words = "".join(
            path.read_text(encoding="utf-8")
            for side in ("clients", "server")
            for path in (root / side / "stages").glob(f"{stage}.py")
        )
        asked = set(re.findall(r'step(?:=| == )"(\w+)"', words))
        assert asked
        assert asked <= set(steps)


def test_a_simulation_judges_by_the_vocabulary_and_no_wider() -> None:
    study = tiny()
    rules = simulation_policy(study.for_sites().canonical(), "east")
    vocabulary = rules.manifests["tiny"].exchanges
    for name, exchange in manifest_of(study).exchanges.items():
        assert vocabulary[name] == exchange
    for name in ("query.annotate close", "query.enrol"):
        assert name in vocabulary
    for name in (
        "query.enrol close",
        "query.annotate open",
        "query.enrol mim/mim",
        "train.mim",
        "train.open mim/mim",
        "query.enrol a b c",
    ):
        assert name not in vocabulary
