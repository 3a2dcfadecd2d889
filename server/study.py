"""A study from the first round to the report, resumable after any round."""

import platform
import time
from collections.abc import Mapping
from typing import Any

import torch

from common.config.study import Study
from common.formats import SelectionResults
from common.plan import Plan
from common.plan.selection import DIFFUSION
from server import attendance
from server.checkpoint import Traffic
from server.context import ServerContext
from server.report import write_report
from server.results import build_results, write
from server.results_selection import Chosen, build_selection
from server.stages import (
    annotate,
    assemble,
    choosing,
    classify,
    enrol,
    evaluate,
    reconstruct,
    reference,
    score,
    select,
    train,
)


def run_study(context: ServerContext) -> None:
    """Run what is left of a study and write `results.json` and `report.html`.

    Raises:
        StudyStopped: If it cannot go on; what was done stays, and resuming goes on from there.
    """
    started = time.monotonic()
    context.tracker.emit("study", **describe(context.study, context.plan))
    status = "failed"
    try:
        enrol.run(context)
        _train(context)
        if context.plan.arms:
            assemble.run(context)
        scored = evaluate.run(context) if context.plan.arms else {}
        if context.study.evaluate.reference:
            reference.run(context)
        if context.plan.cells:
            classify.run(context)
        write(_results(context, scored), context.run.folder / "results.json")
        status = "finished"
    finally:
        seconds = round(time.monotonic() - started, 1)
        context.tracker.emit("end", status=status, seconds=seconds)
        context.tracker.close()
    write_report(context.run.folder)


def _train(context: ServerContext) -> None:
    """Every training, and between them what chooses the images that the last ones train on."""
    trainings, selections = context.plan.trainings.values(), context.plan.selections.values()
    for training in trainings:
        if not training.selection and training.stage != "sphere":
            train.run(context, training)
    if context.plan.reconstructing:
        reconstruct.run(context)
    for training in trainings:
        if training.stage == "sphere":
            train.run(context, training)
    if selections:
        choosing.begin(context)
    for selection in selections:
        if selection.strategy == "dual":
            score.run(context, selection)
        select.run(context, selection)
    if selections:
        choosing.close(context)
        annotate.run(context)
    for training in trainings:
        if training.selection:
            train.run(context, training)


def describe(study: Study, plan: Plan) -> dict[str, Any]:
    """What the first event of a run says."""
    return {
        "name": study.name,
        "digest": study.digest,
        "seed": study.seed,
        "sites": {name: site.role for name, site in study.sites.items()},
        "arms": list(plan.arms),
        "trainings": [
            {
                "key": training.key,
                "stage": training.stage,
                "rounds": training.settings.rounds,
                "epochs": training.settings.epochs,
                "participants": list(training.participants),
            }
            for training in plan.trainings.values()
        ],
        "selections": [
            {
                "arm": selection.arm,
                "strategy": selection.strategy,
                "budget": selection.budget,
                "budgets": list(selection.budgets),
            }
            for selection in plan.selections.values()
        ],
        "cells": list(plan.cells),
        "synthetic": study.synthetic,
    }


def _results(
    context: ServerContext, scored: Mapping[str, Mapping[str, float | int]]
) -> dict[str, Any]:
    study = context.study
    selection, remarks = _selection(context)
    enrolled = {site: context.run.read_state(f"enrol/{site}") for site in study.sites}
    units = {site: found["unit"] for site, found in enrolled.items() if found}
    return build_results(
        study=study.name,
        digest=study.digest,
        seed=study.seed,
        synthetic=study.synthetic,
        machine=machine(study),
        main=next(iter(context.plan.arms), ""),
        arms=list(context.plan.arms),
        roles={name: site.role for name, site in study.sites.items()},
        units=units,
        evaluations=scored,
        traffic=_traffic(context),
        notes=[*_notes(context), *_departures(context, scored), *remarks],
        selection=selection,
    )


def _departures(
    context: ServerContext, scored: Mapping[str, Mapping[str, float | int]]
) -> list[str]:
    """Of sites that left, came later or were away: what they took part in, and what lacks them."""
    noted = [*attendance.read_changes(context.run.folder), *attendance.read_away(context.run)]
    changes = sorted(noted, key=lambda change: change.time)
    lacking = [
        f"{stage}: without {site} ({reason}); the figures are of the others"
        for stage, sites in attendance.missing(context.run).items()
        for site, reason in sites.items()
    ]
    if not changes:
        return lacking
    records = {key: context.run.checkpoint(key).load(key) for key in context.plan.trainings}
    judged = {*scored, *(classify.classified(context) if context.plan.cells else ())}
    return [*attendance.sentences(changes, context.plan, records, judged), *lacking]


def _selection(context: ServerContext) -> tuple[SelectionResults | None, list[str]]:
    """The second half's results and remarks, out of what its stages have kept."""
    plan = context.plan
    if not plan.cells:
        return None, []
    chosen = {arm: Chosen(**select.outcome(context, s)) for arm, s in plan.selections.items()}
    return build_selection(
        plan,
        context.study.labels,
        classified=classify.classified(context),
        chosen=chosen,
        reconstruction=reconstruct.results(context) if plan.reconstructing else {},
        memorisation=_memorisation(context) if plan.reconstructing else {},
        annotated={
            (arm, budget): annotate.annotated(context, arm, budget)
            for arm, selection in plan.selections.items()
            for budget in selection.budgets
        },
    )


def _memorisation(context: ServerContext) -> dict[str, float]:
    """What the check found before the diffusion model left the source."""
    metrics = context.run.checkpoint(DIFFUSION).load(DIFFUSION).metrics
    found = {
        name: metrics[f"memorisation_{name}"] for name in ("features", "correlation", "samples")
    }
    return {**found, "threshold": context.study.diffusion.memorisation_threshold}


def machine(study: Study) -> dict[str, str | int | float | bool | None]:
    """What the numbers depend on beside the study: processor, threads, libraries."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": study.compute.device,
        "precision": study.compute.precision,
        "threads": study.compute.threads,
    }


def _processor() -> str:
    """The processor's name; `platform` does not know it on Linux."""
    return platform.processor() or torch.backends.cpu.get_cpu_capability()


def _traffic(context: ServerContext) -> Traffic:
    """Tensor bytes by site over all trainings, choices and evaluations."""
    total: Traffic = {site: {"down": 0, "up": 0} for site in context.study.sites}
    parts = [context.run.checkpoint(key).load(key).traffic for key in context.plan.trainings]
    parts += [stage.traffic(context) for stage in (reconstruct, score, select)]
    for stage in ("annotate", "classify", "evaluate"):
        parts.append((context.run.read_state(stage) or {}).get("traffic", {}))
    for part in parts:
        for site, count in part.items():
            for way, number in count.items():
                total[site][way] += number
    return total


def _notes(context: ServerContext) -> list[str]:
    """What a reader must know beside the numbers."""
    notes = [f"untrained: {context.study.untrained}"] if context.study.untrained else []
    if (step := context.study.federation.count_bucket) > 1:
        notes.append(
            f"counts left the sites in steps of {step}, and weights of sites are made of them: not "
            "comparable bit for bit with a run of exact counts."
        )
    for key, training in context.plan.trainings.items():
        record = context.run.checkpoint(key).load(key)
        missed = [
            f"without {site} in {'round' if len(rounds) == 1 else 'rounds'} "
            f"{attendance.spans(rounds)} of {record.round}"
            for site, rounds in record.missed.items()
        ]
        notes += [f"{key}: {words}" for words in [record.note, *missed, *record.remarks] if words]
        if training.stage != "contrastive":
            continue
        masked, total = record.totals["pairs_masked"], record.totals["pairs_total"]
        if masked == 0:
            notes.append(
                f"{key}: 0 of {total:,} pairs masked, so this contrastive branch is plain SimCLR"
            )
        else:
            notes.append(f"{key}: {masked:,} of {total:,} pairs masked ({masked / total:.1%})")
        alone = record.totals["anchors_without_negatives"]
        if alone:
            notes.append(f"{key}: {alone:,} anchors had every negative masked; their loss is 0")
    return notes
