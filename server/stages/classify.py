"""classify: every classifier goes to the targets, and its figures come back.

(A classifier's rounds of training are server/stages/train.py's.)
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

from server.checkpoint import read_tensors, write_tensors
from server.context import ServerContext
from server.results_selection import Classified
from server.stages import enrol
from server.steps import Missing, ask_sites

STAGE = "classify"


def run(context: ServerContext) -> dict[str, dict[str, float | int]]:
    """Have every target predict with every classifier, then score all.

    What has been predicted or scored before a kill is not asked again. Where the others are a
    quorum, a target that gives no answer is left out, by name.

    Returns:
        Each target's flat metrics.

    Raises:
        StudyStopped: If too few targets answer, naming those that do not and why.
    """
    done = _state(context)
    missing = Missing(context, STAGE, enrol.present(context, context.study.targets))
    done["missing"] = missing.reasons
    _predict(context, done, missing)
    _score(context, done, missing)
    context.run.write_state(STAGE, done)
    scored: dict[str, dict[str, float | int]] = done["scored"]
    return scored


def classified(context: ServerContext) -> dict[str, Classified]:
    """Each target's answer with its counts and histograms, in the study's order, after `run`.

    A target that was dropped or away before it answered is not among them.
    """
    scored = _state(context)["scored"]
    found = {}
    for site in (site for site in context.study.targets if site in scored):
        counts = read_tensors(_counts(context, site))
        found[site] = Classified(
            scored[site], counts["scores"].numpy(), counts["confusion"].numpy()
        )
    return found


def _predict(context: ServerContext, done: dict[str, Any], missing: Missing) -> None:
    for key, cell in context.plan.cells.items():
        have = done["predicted"].setdefault(key, [])
        left = _left(context, missing, have)
        if not left:
            continue
        weights = context.result(cell.training)
        for reply in ask_sites(
            context, "evaluate", STAGE, left, traffic=done["traffic"], key=key, weights=weights,
            missing=missing,
        ):  # fmt: skip
            have.append(reply.site)
            context.run.write_state(STAGE, done)


def _score(context: ServerContext, done: dict[str, Any], missing: Missing) -> None:
    left = _left(context, missing, done["scored"])
    for reply in ask_sites(
        context, "evaluate", STAGE, left, traffic=done["traffic"], missing=missing
    ):
        write_tensors(_counts(context, reply.site), reply.weights)
        done["scored"][reply.site] = dict(reply.metrics)
        context.run.write_state(STAGE, done)


def _left(context: ServerContext, missing: Missing, done: Container[str]) -> list[str]:
    here = enrol.present(context, missing.sites)
    return [site for site in here if site not in done and site not in missing.reasons]


def _state(context: ServerContext) -> dict[str, Any]:
    found: dict[str, Any] = context.run.read_state(STAGE) or {
        "predicted": {}, "scored": {}, "traffic": {},
    }  # fmt: skip
    return found


def _counts(context: ServerContext, site: str) -> Path:
    """Where a site's histograms and confusion matrices lie, all classifiers in one file."""
    return context.run.folder / "state" / f"{STAGE}.{site}.safetensors"
