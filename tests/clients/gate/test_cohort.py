"""Figures of too few people: held back one by one, or refused with their message."""

import pytest

from clients.gate.cohort import held_back
from clients.gate.facts import InstructionFacts, ReplyFacts
from clients.gate.manifest import Exchange, Manifest, Metric
from clients.gate.policy import judge
from clients.gate.rules import Cohort, Rule, StageRules
from common.wire.gate import REFUSED_COHORT
from tests.clients.gate.world import STUDY, policy

COUNT = Metric(kind="count", low=0, high=1e9)
NUMBER = Metric(kind="number", low=-100, high=100)
METRICS = {
    f"{arm}.{metric}.{what}": COUNT if what.startswith("n_") else NUMBER
    for arm in ("ensemble", "mim")
    for metric in ("dice", "hd95")
    for what in ("n_images", "n_patients", "mean", "variance")
} | {
    "ensemble~mim.dice.n": COUNT, "ensemble~mim.dice.p": NUMBER, "ensemble~mim.dice.z": NUMBER,
    "contrast_ratio": NUMBER,
}  # fmt: skip
EXCHANGE = Exchange(metrics=METRICS, complete=False)
ASKED = InstructionFacts("query.evaluate", STUDY, "0" * 64)
RULES = policy(
    Manifest(exchanges={"query.evaluate": EXCHANGE}),
    stages={"evaluate": StageRules()}, metrics={"*": Rule()},
)  # fmt: skip


def told(metric: str, patients: int, arm: str = "ensemble") -> dict[str, float | int]:
    stem = f"{arm}.{metric}"
    return {
        f"{stem}.n_images": 2 * patients, f"{stem}.n_patients": patients, f"{stem}.mean": 0.7,
        f"{stem}.variance": 0.0,
    }  # fmt: skip


def pair(patients: int) -> dict[str, float | int]:
    stem = "ensemble~mim.dice"
    return {f"{stem}.n": patients, f"{stem}.p": 0.4, f"{stem}.z": 1.0}


def test_of_an_evaluation_the_other_figures_leave() -> None:
    many = {**told("dice", 9), **told("dice", 7, "mim"), "contrast_ratio": 0.8}
    few = {**told("hd95", 4), **pair(3)}
    left = held_back(Cohort(), EXCHANGE, ReplyFacts(metrics={**few, **many}))
    assert left.metrics == many
    assert judge(RULES, ASKED, left).passes
    assert held_back(Cohort(minimum=1), EXCHANGE, ReplyFacts(metrics=few)).metrics == few


def test_messages_that_must_be_complete_are_refused_whole() -> None:
    whole = EXCHANGE.model_copy(update={"complete": True})
    reply = ReplyFacts(metrics=told("hd95", 4))
    assert held_back(Cohort(), whole, reply) is reply
    assert judge(RULES, ASKED, reply).code == REFUSED_COHORT


@pytest.mark.parametrize("count", [None, 0])
def test_a_figure_does_not_leave_without_its_number_of_people(count: int | None) -> None:
    for figures, name in (
        (told("dice", 9), "ensemble.dice.n_patients"), (pair(9), "ensemble~mim.dice.n")
    ):  # fmt: skip
        assert judge(RULES, ASKED, ReplyFacts(metrics=figures)).passes
        less = {key: value for key, value in figures.items() if key != name}
        if count is not None:
            less[name] = count
        verdict = judge(RULES, ASKED, held_back(Cohort(), EXCHANGE, ReplyFacts(metrics=less)))
        assert verdict.code == REFUSED_COHORT
        assert "came without the number of people" in verdict.why[0]


def test_nothing_of_nobody_may_be_said() -> None:
    nothing = {"ensemble.hd95.n_images": 0, "ensemble.hd95.n_patients": 0}
    assert judge(RULES, ASKED, ReplyFacts(metrics=nothing)).passes
