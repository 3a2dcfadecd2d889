"""reference: the sites' aggregates, by which a bundle of the study flags frames unlike them.

A site that gives none (its policy forbids it, or too few patients stand behind it) stops nothing:
the bundle then knows the other sites' images only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.bundle.arm import all_members, bundle_arm
from common.bundle.reference import Reference, SiteReference, Spread
from common.models.branches import State
from common.wire.payload import digest_of
from server.checkpoint import RunFolder, read_tensors, write_tensors
from server.context import ServerContext
from server.exchange import Question, Refusal, least
from server.stages import enrol
from server.stages.evaluate import member_weights

STAGE = "reference"


def run(context: ServerContext) -> None:
    """Show every site the members of the study's bundle, then ask for its aggregates.

    What was asked before a kill is not asked again. One of which nothing is heard is left out; a
    run that goes on asks it again.
    """
    done = context.run.read_state(STAGE) or {"members": {}, "seen": {}, "sites": {}, "none": {}}
    sites = enrol.present(context, tuple(context.study.sites))
    members = all_members(context.plan.arms[bundle_arm(context.plan)])
    for member in members:
        _show(context, done, member, sites)
    left = [
        site
        for site in enrol.present(context, sites)
        if site not in done["sites"]
        and site not in done["none"]
        and all(site in done["seen"][member] for member in members)
    ]
    question = Question.of(context.study, context.plan, "query", STAGE, spare=_spare(context, left))
    for answer in enrol.ask(context, question, left):
        if isinstance(answer, Refusal):
            _note(done, answer)
        elif not answer.metrics["patients"]:
            done["none"][answer.site] = "too few patients"
        else:
            write_tensors(_tensors(context.run, answer.site), answer.weights)
            done["sites"][answer.site] = dict(answer.metrics)
        context.run.write_state(STAGE, done)
        context.tracker.emit(
            "step", stage=STAGE, key="", step="", round=1, site=answer.site,
            bytes_down=answer.bytes_down, bytes_up=getattr(answer, "bytes_up", 0),
            seconds=0.0, metrics={},
        )  # fmt: skip


def _show(context: ServerContext, done: dict[str, Any], member: str, sites: Sequence[str]) -> None:
    weights = member_weights(context, member)
    done["members"][member] = digest_of(weights)
    seen = done["seen"].setdefault(member, [])
    here = enrol.present(context, sites)
    left = [site for site in here if site not in seen and site not in done["none"]]
    question = Question.of(
        context.study, context.plan, "query", STAGE, member, weights=weights,
        spare=_spare(context, left),
    )  # fmt: skip
    for answer in enrol.ask(context, question, left):
        if isinstance(answer, Refusal):
            _note(done, answer)
        else:
            seen.append(answer.site)
        context.run.write_state(STAGE, done)


def _spare(context: ServerContext, left: Sequence[str]) -> int:
    """Who is away is not waited for; one that goes away meanwhile is, if the quorum needs it."""
    away = sum(site in context.away for site in left)
    return max(away, len(left) - least(context.study.federation.quorum, len(left)))


def _note(done: dict[str, Any], refusal: Refusal) -> None:
    """Why a site gives nothing; one that was not heard may yet give something."""
    if refusal.kind != "silent":
        done["none"][refusal.site] = refusal.reason


def collected(run: RunFolder, members: dict[str, str]) -> Reference | None:
    """The aggregates that a run has collected for a bundle's members.

    Args:
        run: The run folder.
        members: The bundle's: name to digest of its tensors.

    Returns:
        None where the run collected none, or of other members.
    """
    done = run.read_state(STAGE)
    if not done or done["members"] != members:
        return None
    sites = {}
    for site, metrics in done["sites"].items():
        found = _site(metrics, read_tensors(_tensors(run, site)))
        if found is not None:
            sites[site] = found
    return Reference(sites=sites) if sites else None


def _site(metrics: dict[str, float], tensors: State) -> SiteReference | None:
    """A site's part; None if fewer stand behind it than this centre takes."""
    spreads = {
        of: Spread(mean=metrics[f"reference_{of}_mean"], sd=metrics[f"reference_{of}_sd"])
        for of in ("grey", "feature", "confidence")
    }
    try:
        return SiteReference(
            images=int(metrics["images"]),
            patients=int(metrics["patients"]),
            grey_mean_G=tuple(tensors["reference.grey_mean"].tolist()),
            grey_covariance_GG=tuple(map(tuple, tensors["reference.grey_covariance"].tolist())),
            feature_mean_D=tuple(tensors["reference.feature_mean"].tolist()),
            feature_sd_D=tuple(tensors["reference.feature_sd"].tolist()),
            **spreads,
        )
    except ValidationError:
        return None


def _tensors(run: RunFolder, site: str) -> Path:
    return run.folder / "state" / f"{STAGE}.{site}.safetensors"
