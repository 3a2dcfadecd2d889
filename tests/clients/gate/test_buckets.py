"""Counts in steps: rounded after the judgement, before anything is written down or sent."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clients.gate.buckets import bucket_of, bucketed
from clients.gate.facts import InstructionFacts, ReplyFacts
from common.wire.vocabulary import ENROL, EXTRA, TRAIN, VALIDATION


def asked(step: int, stage: str = "mim") -> InstructionFacts:
    study: dict[str, Any] = {"name": "wrist", "federation": {"count_bucket": step}}
    return InstructionFacts(f"train.{stage}", study, "0" * 64)


def rounded(value: int, step: int, name: str = "examples") -> float | int:
    return bucketed(asked(step), ReplyFacts(metrics={name: value})).metrics[name]


def test_halves_go_up_and_only_nothing_is_nothing() -> None:
    said = [rounded(value, 10) for value in (0, 1, 4, 5, 14, 15, 16, 25, 100)]
    assert said == [0, 10, 10, 10, 10, 20, 20, 30, 100]


@given(value=st.integers(0, 10**9), step=st.integers(2, 1000))
def test_every_count_is_a_multiple_and_near(value: int, step: int) -> None:
    said = int(rounded(value, step))
    assert said % step == 0
    assert (said == 0) == (value == 0)
    assert abs(said - value) <= (step / 2 if value >= step / 2 else step)


def test_every_count_of_people_and_images_is_one_and_nothing_else() -> None:
    specs = {**ENROL, **TRAIN, **VALIDATION, **EXTRA["contrastive"], "mim.dice.n_patients": None}
    counts = {name: 7 for name in specs if name not in ("loss", "loss_first", "val_loss")}
    reply = bucketed(asked(10), ReplyFacts(metrics={**counts, "val_loss": 0.7, "confidence": 1.0}))
    exact = {name for name, value in reply.metrics.items() if value == 7}
    # A place in a list, an epoch, and a number that stands for a share here are no counts.
    assert exact == {"site", "unit", "best_epoch", "val_dice"}
    assert (reply.metrics["val_loss"], reply.metrics["confidence"]) == (0.7, 1.0)


def test_without_a_step_and_while_choosing_counts_are_exact() -> None:
    reply = ReplyFacts(metrics={"images": 7})
    assert bucketed(asked(1), reply) is reply
    assert bucketed(asked(10, "select"), reply) is reply
    without: list[dict[str, Any]] = [{}, {"federation": {}}]
    for study in without:
        assert bucket_of(study) == 1
    for step in ("10", 10.0, [10], 0, -1, True, None):
        assert bucket_of({"federation": {"count_bucket": step}}) is None
