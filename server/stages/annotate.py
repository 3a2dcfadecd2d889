"""annotate: the study waits until experts have labelled enough of what was selected."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.config.selection import budget_name
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal
from server.stages import choosing
from server.steps import ask_sites

STATE = "annotate"
Counts = Mapping[str, float | int]


def run(context: ServerContext) -> None:
    """Ask the targets how far their experts are, until each has enough for every arm and budget.

    With `annotate.labels = "file"` the study may wait for days: it tells a `waiting` event when a
    number changes, looks again every `poll_s` seconds, and may be stopped and resumed meanwhile.
    When all have enough, each site settles the labels that the study goes on with.

    Raises:
        StudyStopped: If a site refuses, or the manifests have too few labels to play the experts.
    """
    state: dict[str, Any] = context.run.read_state(STATE) or {
        "counts": {}, "closed": [], "traffic": {},
    }  # fmt: skip
    told: dict[str, str] | None = None
    while lacking := _look(context, state, sites := _open(context, state)):
        if context.study.annotate.labels == "hidden":
            words = "; ".join(f"{site}: {text}" for site, text in lacking.items())
            raise StudyStopped(
                f"annotate: the manifests have too few labels to play the experts ({words}); leave "
                "images without a label out, or lower annotate.enough"
            )
        if lacking != told:
            context.tracker.emit("waiting", stage="annotate", sites=lacking)
            told = lacking
        time.sleep(context.study.annotate.poll_s)
    # One that has come back since the last look has not been found to have enough.
    done = [site for site in _open(context, state) if site in sites]
    for reply in ask_sites(
        context, "query", "annotate", done, traffic=state["traffic"], step="close"
    ):
        state["counts"][reply.site] = dict(reply.metrics)
        state["closed"].append(reply.site)
        context.run.write_state(STATE, state)


def _open(context: ServerContext, state: Mapping[str, Any]) -> list[str]:
    """Sites whose experts are not done; one that has been dropped is not waited for."""
    return [site for site in choosing.sites(context) if site not in state["closed"]]


def annotated(
    context: ServerContext, arm: str, budget: float, *, what: str = "annotated"
) -> dict[str, int]:
    """Annotated images of a selection at a budget, by site.

    Args:
        context: The run, `run` done.
        arm: Key of the selection.
        budget: Share of the pool.
        what: "outlined": those of them that have an outline.
    """
    counts = (context.run.read_state(STATE) or {}).get("counts", {})
    stem = f"{arm}.{budget_name(budget)}"
    # A run that was closed before outlines were counted took every annotated image for one.
    return {
        site: int(found.get(f"{stem}.{what}", found[f"{stem}.annotated"]))
        for site, found in counts.items()
    }


def _look(context: ServerContext, state: dict[str, Any], sites: Sequence[str]) -> dict[str, str]:
    """Ask once; the sites that have not enough, each with what it lacks most.

    Only what changed is written: a study that waits for days looks thousands of times.
    """
    question = Question.of(context.study, context.plan, "query", "annotate")
    counts = dict(state["counts"])
    for answer in context.exchange.ask(question, sites):
        if isinstance(answer, Refusal):
            raise StudyStopped(f"annotate: {answer.site}: {answer.reason}")
        counts[answer.site] = dict(answer.metrics)
    if counts != state["counts"]:
        state["counts"] = counts
        context.run.write_state(STATE, state)
    found = {site: _lack(context, counts[site]) for site in sites}
    return {site: text for site, text in found.items() if text}


def _lack(context: ServerContext, counts: Counts) -> str:
    """`"12 of 26 (dual, 20 %)"`: the selection that lacks most; empty if none lacks any."""
    worst, text = 0, ""
    for selection in context.plan.selections.values():
        for budget in selection.budgets:
            stem = f"{selection.arm}.{budget_name(budget)}"
            have, wanted = int(counts[f"{stem}.annotated"]), int(counts[f"{stem}.wanted"])
            # 0.3 * 10 is a little more than 3 in binary.
            enough = math.ceil(round(context.study.annotate.enough * wanted, 9))
            if enough - have > worst:
                worst = enough - have
                text = f"{have} of {wanted} ({selection.arm}, {100 * budget:g} %)"
    return text
