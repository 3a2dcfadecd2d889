"""Counts in steps of a study's own choosing, `federation.count_bucket`: applied at the door.

The policy judges the exact counts first, so that a step cannot hide a cohort that is too small.
What passes is rounded, written down and sent; the server never sees another number, under any
engine. A hospital that wants steps demands them by a rule in its policy's [study], such as
`"federation.count_bucket" = { low = 10 }`.
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from clients.gate.facts import InstructionFacts, ReplyFacts

COUNTED = (
    "images", "patients", "videos", "masks", "examples", "train_*", "val_images", "val_patients",
    "test_*", "pairs_*", "anchors_without_negatives", "*.n_images", "*.n_patients", "*.n",
    "contrast_images",
)  # fmt: skip
"""Counts of people, of images, and of what is made of them. Indices and epochs are no such."""

COUNT_BUCKET = "federation.count_bucket"
CHOOSING = ("score", "select", "annotate")
"""The choice over all sites is made of exact counts or not at all: `score.min_cohort` is for it."""


def bucket_of(study: Mapping[str, Any]) -> int | None:
    """The step that a study asks for; 1 leaves counts as they are, None is no step."""
    table = study.get("federation")
    step = table.get("count_bucket", 1) if isinstance(table, Mapping) else 1
    return step if type(step) is int and step >= 1 else None


def bucketed(asked: InstructionFacts, reply: ReplyFacts) -> ReplyFacts:
    """A reply that was let through, with its counts in the study's steps.

    Args:
        asked: The instruction.
        reply: What `judge` has passed.

    Returns:
        Each count at the nearest multiple, halves upwards, and a whole step where it would be
        none: 0 stays 0, and nothing else becomes 0. Tensors of counts stay as they are.
    """
    step = bucket_of(asked.study)
    assert step is not None  # no instruction without one passes
    if step == 1 or asked.stage in CHOOSING:
        return reply
    metrics = {
        name: _rounded(value, step) if isinstance(value, int) and _counts(name) else value
        for name, value in reply.metrics.items()
    }
    return replace(reply, metrics=metrics)


def _rounded(value: int, step: int) -> int:
    return max(step, (2 * value + step) // (2 * step) * step) if value > 0 else value


def _counts(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in COUNTED)
