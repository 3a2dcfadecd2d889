"""A study made of a policy's rules passes it, and each that breaks a rule is refused for it."""

from pathlib import Path

import pytest

from clients.gate.policy import study_problems
from clients.gate.policy_file import load_file
from clients.gate.rules import Rule, Rules
from scripts.audit.invented import breaking, invented
from tests.clients.gate.world import policy

TEMPLATE = Path(__file__).parents[3] / "configs" / "policy.toml"
HARD: Rules = {
    "name": Rule(),
    "mim.*": Rule(),
    "mim.epochs": Rule(kind="count", low=3, high=3),
    "*.rounds": Rule(kind="count", low=2, high=5),
    "split.test": Rule(low=0.25, high=0.5),
    "federation.count_bucket": Rule(low=10),
    "federation.aggregation": Rule(text="[a-z]+"),
    "phantom": Rule(values=()),
    "*.loss": Rule(values=("dice_bce",)),
    "sites.*": Rule(),
    "sites.*.reader": Rule(values=()),
    "a[bc]": Rule(),
}


@pytest.mark.parametrize(
    "rules", [HARD, load_file(TEMPLATE).study, policy().file.study, {"*": Rule()}, {"name": Rule()}]
)
def test_it_passes_and_tries_every_rule(rules: Rules) -> None:
    study = invented(rules, "wrist", "mim")
    assert list(study_problems(rules, study)) == []
    assert study["name"] == "wrist"
    spoilt = dict(breaking(rules, study, "mim"))
    for name, other in spoilt.items():
        assert list(study_problems(rules, other)), name
    broken = [name for name in spoilt if name.startswith("a study that breaks")]
    demanding = [pattern for pattern, rule in rules.items() if rule.problem("somebody.own:part")]
    assert broken == [f"a study that breaks the rule for {pattern}" for pattern in demanding]


def test_the_keys_of_a_study_are_there() -> None:
    study = invented(HARD, "wrist", "mim")
    assert study["mim"] == {"any": 1, "epochs": 3, "rounds": 2, "loss": "dice_bce"}
    assert study["split"] == {"test": 0.25}
    assert study["federation"] == {"count_bucket": 10, "aggregation": "x"}
    assert study["phantom"] is None
    spoilt = dict(breaking(HARD, study, "mim"))
    assert spoilt["a study that breaks the rule for mim.epochs"]["mim"]["epochs"] == 4
    assert spoilt["a study that breaks the rule for sites.*.reader"]["sites"] == {
        "any": {"reader": "somebody.own:part"}
    }
    assert "epochs" not in spoilt["a study without mim.epochs, which a rule wants"]["mim"]
