"""classify: every classifier goes to the targets, and its figures come back.

(A classifier's rounds of training are server/stages/train.py's.)
"""

import math
from typing import Any

import numpy as np

from common.classification import (
    METRICS,
    accuracy,
    auroc_of_histogram,
    balanced_accuracy,
)
from server.checkpoint import read_tensors, write_tensors
from server.context import ServerContext
from server.steps import ask_sites

STAGE = "classify"

Pooled = dict[str, dict[str, float]]
"""A classifier's key to metric to the figure over all targets' test images."""


def run(context: ServerContext) -> dict[str, dict[str, float | int]]:
    """Have every target predict with every classifier, then score all.

    What has been predicted or scored before a kill is not asked again.

    Returns:
        Each target's flat metrics.

    Raises:
        StudyStopped: If a site refuses, naming it and why.
    """
    done: dict[str, Any] = context.run.read_state(STAGE) or {
        "predicted": {},
        "scored": {},
        "traffic": {},
    }
    _predict(context, done)
    _score(context, done)
    scored: dict[str, dict[str, float | int]] = done["scored"]
    return scored


def pooled(context: ServerContext) -> Pooled:
    """The figures over all targets' test images, from counts and histograms, after `run`.

    AUROC is exact but for scores that share one of 256 cells; with more than two classes it is a
    micro average over classes against the rest, where a site's own is a macro average. A figure
    that is undefined (one class in all test images) is left out.
    """
    parts = [read_tensors(_counts(context, site)) for site in context.study.targets]
    scores = np.sum([part["scores"].numpy() for part in parts], axis=0)
    confusions = np.sum([part["confusion"].numpy() for part in parts], axis=0)
    found: Pooled = {}
    for place, key in enumerate(context.plan.cells):
        counts_CC = confusions[place]
        values = (
            accuracy(counts_CC), balanced_accuracy(counts_CC), auroc_of_histogram(scores[place])
        )  # fmt: skip
        found[key] = {
            name: value for name, value in zip(METRICS, values, strict=True) if math.isfinite(value)
        }
    return found


def _predict(context: ServerContext, done: dict[str, Any]) -> None:
    for key, cell in context.plan.cells.items():
        have = done["predicted"].setdefault(key, [])
        left = [site for site in context.study.targets if site not in have]
        if not left:
            continue
        weights = context.result(cell.training)
        for reply in ask_sites(
            context, "evaluate", STAGE, left, traffic=done["traffic"], key=key, weights=weights
        ):
            have.append(reply.site)
            context.run.write_state(STAGE, done)


def _score(context: ServerContext, done: dict[str, Any]) -> None:
    left = [site for site in context.study.targets if site not in done["scored"]]
    for reply in ask_sites(context, "evaluate", STAGE, left, traffic=done["traffic"]):
        write_tensors(_counts(context, reply.site), reply.weights)
        done["scored"][reply.site] = dict(reply.metrics)
        context.run.write_state(STAGE, done)


def _counts(context: ServerContext, site: str) -> Any:
    """Where a site's histograms and confusion matrices lie, all classifiers in one file."""
    return context.run.folder / "state" / f"{STAGE}.{site}.safetensors"
