"""report.html of a run: one file, made from study.json, metrics.jsonl and results.json alone.

It can be made at any time: of a study under way or failed it shows what there is. It holds no
pixel of any image; the sites' own reports do, and stay at the sites.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import page
from common.errors import InputError
from common.formats import Event, Results, read_events, read_results
from server import report_arms
from server import report_figures as figures
from server import report_selection as selecting
from server import report_selection_figures as selection_figures
from server import report_views as views
from server.report_diagram import diagrams
from server.results_remarks import prevalence

TEMPLATES = Path(__file__).parent / "templates"
"""Jinja; named .md because Flower bundles neither .j2 nor .html."""


def write_report(run: Path) -> Path:
    """Make RUN/report.html (again).

    Args:
        run: A run folder.

    Returns:
        The report's path.

    Raises:
        InputError: If the folder is no run, or a file in it is not what docs/formats.md says.
    """
    study_path, results_path = run / "study.json", run / "results.json"
    try:
        study = json.loads(study_path.read_bytes())
    except OSError as error:
        raise InputError(f"{study_path}: {error.strerror}; is {run} a run folder?") from error
    except ValueError as error:
        raise InputError(f"{study_path}: not JSON ({error})") from error
    results = read_results(results_path) if results_path.exists() else None
    text = render(study, read_events(run / "metrics.jsonl"), results)
    path = run / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def render(study: Mapping[str, Any], events: Iterable[Event], results: Results | None) -> str:
    """The report as HTML; the same input gives the same bytes.

    Args:
        study: The resolved study, as study.json has it.
        events: Of metrics.jsonl.
        results: None while the study has not finished.

    Raises:
        InputError: Without a study event.
    """
    events = list(events)
    log = views.sort_out(events)
    if log.study is None:
        raise InputError("metrics.jsonl has no study event: the study has not begun")
    sites = views.ordered(log.study)
    colors = figures.site_colors(sites)
    curves = views.curves(log, sites)
    traffic = views.traffic(log, results, sites)
    primary = (views.primary(results) if results else None) or "dice"
    label = views.METRICS[primary][0]
    compared = [c for c in results.comparisons if c.metric == primary] if results else []
    template = page.environment(TEMPLATES).get_template("report.html.md")
    return template.render(
        study=log.study,
        untrained=study.get("untrained", ""),
        config=json.dumps(study, indent=1, sort_keys=True, ensure_ascii=False),
        log=log,
        results=results,
        diagrams=diagrams(log.study, log),
        curve_plot=figures.curve_plot(curves, colors),
        has_validation=any(e.val_loss is not None for c in curves for e in c.rounds),
        interval_plot=(
            figures.interval_plot(results, sites, metric=primary, label=label) if results else None
        ),
        gap_plot=figures.gap_plot(results, colors) if results else None,
        table=_groups(results, sites, reference=True) if results else [],
        silent=_groups(results, sites, reference=False) if results else [],
        classes=_classes(results) if results else [],
        closures=views.closures(results) if results else {},
        against_lower=views.against(results, "lower", primary) if results else None,
        traffic=traffic,
        moved=sum(stage.total for stage in traffic),
        refusals=views.refusals(log),
        largest=max((stage.total for stage in traffic), default=0),
        site_totals={
            site: tuple(sum(stage.sites[site][way] for stage in traffic) for way in (0, 1))
            for site in sites
        },
        primary=primary,
        label=label,
        columns=_columns(results) if results else [],
        compared=compared,
        compared_sites=[site for site in sites if any(site in c.sites for c in compared)],
        target_count=_target_count(results),
        roles=list(log.study.sites.values()),
        images=sum(e.counts.get("images", 0) for e in log.enrolled.values()),
        patients=sum(e.counts.get("patients", 0) for e in log.enrolled.values()),
        sites=sites,
        unknown=any(e.unit != "patient" for e in log.enrolled.values()),
        closable=[site for site in sites if results and site in figures.closable(results)],
        arm_words=views.ARMS,
        selection_words=report_arms.words_of(arms := _selecting(log, results)),
        ablation_words=report_arms.words_of([arm for arm in arms if not report_arms.is_main(arm)]),
        selection=_selection(results, log, sites, colors) if results else None,
        taught=selection_figures.classify_plot(log, results.selection if results else None),
        waited=selecting.waited(log.waiting),
        waiting_s=selecting.waiting_seconds(events),
    )


def _selecting(log: views.Log, results: Results | None) -> list[str]:
    """The arms that select, and those that are judged without selecting."""
    assert log.study is not None
    arms = [selection.arm for selection in log.study.selections]
    arms += [cell.partition("/")[0] for cell in log.study.cells]
    if results and results.selection:
        arms += [cell.arm for cell in results.selection.cells]
    return list(dict.fromkeys(arms))


def _selection(
    results: Results, log: views.Log, sites: Sequence[str], colors: Mapping[str, str]
) -> dict[str, Any] | None:
    """All that the second half's sections show; None where no arm selects."""
    found = results.selection
    if found is None:
        return None
    cells = selecting.Cells(found)
    redrawn = {site: found.reconstruction[site] for site in sites if site in found.reconstruction}
    return {
        "results": found,
        "cells": cells,
        "headline": selecting.headline(cells, prevalence(found.test)),
        "metrics": [
            {
                "name": metric,
                "words": words,
                "plot": selection_figures.selection_plot(cells, metric),
                "table": selecting.table(cells, metric),
                "ablations": selecting.ablations(cells, metric),
            }
            for metric, words in report_arms.METRICS.items()
            if any(metric in cell.pooled for cell in found.cells)
        ],
        "tests": selecting.tests(cells),
        "choices": selecting.choices(found),
        "inexact": any(
            images > 1
            for choice in found.selected
            if choice.arm == found.main
            for images in choice.cohort.values()
        ),
        "targets": [site for site in sites if site in found.test],
        "redrawn": redrawn,
        "fidelity": [
            name
            for name in ("psnr", "ms_ssim", "rmse", "lpips_alex", "lpips_vgg")
            if any(f"{name}_mean" in r.metrics for r in redrawn.values())
        ],
        "densities": selection_figures.density_plot(redrawn, colors),
        "greys": selection_figures.grey_plot(redrawn, colors),
        "memorisation": selection_figures.memorisation_plot(found.memorisation),
        "health": selecting.health(
            found.selected,
            [site for site in sites if log.study and log.study.sites[site] == "target"],
        ),
    }


def _groups(results: Results, sites: Sequence[str], *, reference: bool) -> list[dict[str, Any]]:
    """Groups of a table's rows, one a site that has (or lacks) a reference: arms to results."""
    groups = []
    for site in sites:
        rows = {
            arm: r.sites[site]
            for arm, r in results.arms.items()
            if site in r.sites and r.sites[site].reference == reference
        }
        if rows:
            groups.append({"site": site, "rows": rows, "first": next(iter(rows.values()))})
    return groups


def _columns(results: Results) -> list[tuple[str, str, int]]:
    """The results table's metrics: name, words, digits."""
    had = {m for arm in results.arms.values() for s in arm.sites.values() for m in s.metrics}
    return [(name, words, digits) for name, (words, digits) in views.METRICS.items() if name in had]


def _target_count(results: Results | None) -> int:
    """Target sites behind the mean of targets."""
    arms = results.arms.values() if results else ()
    return max((t.n_sites for arm in arms for t in arm.targets.values()), default=0)


def _classes(results: Results) -> list[str]:
    """Names of the classes that have a Dice of their own."""
    return list(
        dict.fromkeys(
            metric.split("@")[1]
            for arm in results.arms.values()
            for site in arm.sites.values()
            for metric in site.metrics
            if metric.startswith("dice@")
        )
    )
