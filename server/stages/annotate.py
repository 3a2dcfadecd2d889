"""annotate: the study waits until experts have labelled enough of what was selected."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from common.config.selection import budget_name
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal, Reply
from server.stages import choosing, enrol
from server.steps import tell

STATE = "annotate"
GROWTH, LONGEST_S = 1.5, 900.0
"""How the pause between two looks grows while nothing changes, and up to what: a look is a message,
a process and a line in the ledger at each site, and experts take a week."""
LOOK_S = 900.0
"""Seconds that a site may take to count."""
Counts = Mapping[str, float | int]


def run(context: ServerContext) -> None:
    """Ask the targets how far their experts are, until each has enough for every arm and budget.

    With `annotate.labels = "file"` the study may wait for days: it tells a `waiting` event when
    something changes, looks again every `poll_s` seconds, later less often, and may be stopped and
    resumed meanwhile. A site that is away in that time is waited for as its experts are. When all
    have enough, each site settles the labels that the study goes on with.

    Raises:
        StudyStopped: If a site refuses, or the manifests have too few labels to play the experts.
    """
    state: dict[str, Any] = context.run.read_state(STATE) or {
        "counts": {}, "closed": [], "traffic": {},
    }  # fmt: skip
    heard: dict[str, str] = {}
    told: dict[str, str] | None = None
    first = pause = context.study.annotate.poll_s
    while sites := _open(context, state):
        before = dict(state["counts"])
        lacking = _look(context, state, sites, heard)
        if not lacking:
            # One that has come back since the last look has not been found to have enough.
            _close(context, state, [site for site in _open(context, state) if site in sites])
            continue
        if context.study.annotate.labels == "hidden":
            words = "; ".join(f"{site}: {text}" for site, text in lacking.items())
            raise StudyStopped(
                f"annotate: the manifests have too few labels to play the experts ({words}); leave "
                "images without a label out, or lower annotate.enough"
            )
        changed = lacking != told or state["counts"] != before
        if lacking != told:
            context.tracker.emit("waiting", stage="annotate", sites=lacking)
            told = lacking
        pause = first if changed else max(first, min(GROWTH * pause, LONGEST_S))
        time.sleep(pause)


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


def _look(
    context: ServerContext, state: dict[str, Any], sites: Sequence[str], heard: dict[str, str]
) -> dict[str, str]:
    """Ask once; the sites that have not enough or are not heard, each with what it lacks most.

    Only what changed is written: a study that waits for days looks thousands of times.
    """
    counts = dict(state["counts"])
    silent = []
    for answer in _ask(context, "", sites):
        if isinstance(answer, Refusal):
            silent.append(answer.site)
            continue
        counts[answer.site] = dict(answer.metrics)
        now = datetime.fromtimestamp(time.time(), UTC)
        heard[answer.site] = f"not heard since {now:%Y-%m-%d %H:%M} UTC"
    if counts != state["counts"]:
        state["counts"] = counts
        context.run.write_state(STATE, state)
    found = {site: _lack(context, counts[site]) if site in counts else "" for site in sites}
    for site in silent:
        words = (found[site], heard.get(site, "not heard yet"))
        found[site] = ", ".join(part for part in words if part)
    return {site: text for site, text in found.items() if text}


def _close(context: ServerContext, state: dict[str, Any], sites: Sequence[str]) -> None:
    """Have the sites settle their labels; one that is not heard is looked at again."""
    for answer in _ask(context, "close", sites):
        at = state["traffic"].setdefault(answer.site, {"down": 0, "up": 0})
        at["down"] += answer.bytes_down
        if isinstance(answer, Reply):
            at["up"] += answer.bytes_up
            state["counts"][answer.site] = dict(answer.metrics)
            state["closed"].append(answer.site)
            tell(context, STATE, answer, step="close")
        context.run.write_state(STATE, state)


def _ask(context: ServerContext, step: str, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
    """Ask sites; while experts are waited for, one that is away is not waited for besides.

    Raises:
        StudyStopped: If a site refuses.
    """
    question = Question.of(context.study, context.plan, "query", "annotate", step=step)
    patient = context.study.annotate.labels == "file"
    if patient:
        deadline_s = min(LOOK_S, context.study.federation.deadline_s)
        question = replace(question, spare=len(sites), deadline_s=deadline_s)
    for answer in enrol.ask(context, question, sites):
        if isinstance(answer, Refusal) and not (patient and answer.kind == "silent"):
            what = ", ".join(part for part in ("annotate", step) if part)
            raise StudyStopped(f"{what}: {answer.site}: {answer.reason}")
        yield answer


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
