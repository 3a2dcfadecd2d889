"""The second half of results.json: what the sites chose, and what the classifiers gained by it.

Only counts, histograms, means and variances arrive here; no image's score does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common import statistics
from common.classification import (
    METRICS,
    accuracy,
    auroc_of_histogram,
    balanced_accuracy,
)
from common.config.arms import BOUND_ARMS
from common.formats import (
    CellResult,
    Interval,
    PairedResult,
    ReconstructionResult,
    SelectedResult,
    SelectionResults,
    Summary,
)
from common.plan import Cell, Plan, Selection
from server.results_remarks import how, remarks

Flat = Mapping[str, float | int]
"""A site's metrics of all classifiers: "<cell>.<metric>.<stat>" and "<cell>.versus.<stat>"."""


@dataclass(frozen=True)
class Classified:
    """One site's answer on all classifiers. C = classifiers, L = labels.

    Attributes:
        metrics: Flat, what the site has.
        scores: (C, 2, 256) counts of scores, negatives and positives.
        confusion: (C, L, L) counts, the true class in the rows.
    """

    metrics: Flat
    scores: NDArray[np.int64]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """What an arm chose.

    Attributes:
        pool: By site, images that it could choose from.
        selected: Budget's name to site to images.
        overlap: Budget's name to the share of the leading arm's choice that it chose too.
        embedding: Site to mean_angle and effective_rank.
        words: How it chose over the sites, where the stage says so; else it is told from the plan.
        cohort: Site to the smallest cohort that it applied.
        regrouped: Site to images that it counted in another cell than their own.
        due: Budget's name to images that it stands for.
    """

    pool: Mapping[str, int]
    selected: Mapping[str, Mapping[str, int]]
    overlap: Mapping[str, float] = field(default_factory=dict)
    embedding: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    words: str = ""
    cohort: Mapping[str, int] = field(default_factory=dict)
    regrouped: Mapping[str, int] = field(default_factory=dict)
    due: Mapping[str, int] = field(default_factory=dict)


def leading_selection(plan: Plan) -> str:
    """The selecting arm that is compared against each other; empty where none selects."""
    return next((arm for arm in plan.selections if arm not in BOUND_ARMS), "")


def build_selection(
    plan: Plan,
    labels: Sequence[str],
    *,
    classified: Mapping[str, Classified],
    chosen: Mapping[str, Chosen],
    reconstruction: Mapping[str, ReconstructionResult] | None = None,
    memorisation: Mapping[str, float] | None = None,
    annotated: Mapping[tuple[str, float], Mapping[str, int]] | None = None,
) -> tuple[SelectionResults, list[str]]:
    """Put the second half together (docs/formats.md, "Selection").

    Args:
        plan: The study's.
        labels: What the classifiers tell apart.
        classified: By target, in the study's order.
        chosen: By selecting arm.
        reconstruction: By site; empty without a diffusion model.
        memorisation: Shares, samples and threshold of the check; empty without a diffusion model.
        annotated: (arm, budget) to site to images that experts have labelled, of those selected.

    Returns:
        The results, and what a reader must know beside the numbers, in sentences.
    """
    main = leading_selection(plan)
    cells = [_cell(cell, place, classified) for place, cell in enumerate(plan.cells.values())]
    test = {
        site: dict(zip(labels, (int(n) for n in answer.confusion[0].sum(axis=1)), strict=True))
        for site, answer in classified.items()
        if len(answer.confusion)
    }
    selected = [
        _selected(selection, chosen[arm])
        for arm, selection in plan.selections.items()
        if arm in chosen
    ]
    results = SelectionResults(
        main=main,
        labels=list(labels),
        test=test,
        cells=_adjusted(cells),
        selected=selected,
        reconstruction=dict(reconstruction or {}),
        memorisation=dict(memorisation or {}),
    )
    return results, remarks(plan, results, annotated or {})


def _cell(cell: Cell, place: int, classified: Mapping[str, Classified]) -> CellResult:
    sites: dict[str, dict[str, Summary]] = {}
    versus: dict[str, PairedResult] = {}
    for site, answer in classified.items():
        found = {metric: _summary(answer.metrics, f"{cell.key}.{metric}") for metric in METRICS}
        sites[site] = {metric: summary for metric, summary in found.items() if summary}
        stem = f"{cell.key}.versus"
        if f"{stem}.difference" in answer.metrics:
            versus[site] = PairedResult(
                difference=answer.metrics[f"{stem}.difference"],
                p=answer.metrics[f"{stem}.p"],
                z=answer.metrics[f"{stem}.z"],
                n=int(answer.metrics[f"{stem}.n"]),
            )
    tests = list(versus.values())
    combined = (
        statistics.stouffer([t.z for t in tests], [math.sqrt(t.n) for t in tests])
        if tests
        else None
    )
    return CellResult(
        arm=cell.arm,
        budget=cell.budget,
        architecture=cell.architecture,
        sites=sites,
        pooled=_pooled(place, sites, classified),
        versus=versus,
        difference=sum(t.difference for t in tests) / len(tests) if tests else None,
        p=combined.p if combined else None,
    )


def _summary(metrics: Flat, stem: str) -> Summary | None:
    if f"{stem}.mean" not in metrics:
        return None
    return Summary(
        mean=metrics[f"{stem}.mean"],
        ci_low=metrics.get(f"{stem}.ci_low"),
        ci_high=metrics.get(f"{stem}.ci_high"),
        variance=metrics.get(f"{stem}.variance"),
        n_images=int(metrics[f"{stem}.n_images"]),
        n_patients=int(metrics[f"{stem}.n_patients"]),
    )


def _pooled(
    place: int,
    sites: Mapping[str, Mapping[str, Summary]],
    classified: Mapping[str, Classified],
) -> dict[str, Interval]:
    """Over all test images, from added counts: what one hospital with all of them would find."""
    if not classified:
        return {}
    confusion = np.sum([answer.confusion[place] for answer in classified.values()], axis=0)
    scores = np.sum([answer.scores[place] for answer in classified.values()], axis=0)
    found = {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "auroc": auroc_of_histogram(scores),
    }
    return {
        metric: pooled_interval(
            value,
            [
                (of_site[metric].n_images, of_site[metric].variance)
                if metric in of_site
                else (0, None)
                for of_site in sites.values()
            ],
        )
        for metric, value in found.items()
        if math.isfinite(value)
    }


def pooled_interval(
    mean: float, sites: Sequence[tuple[int, float | None]], *, level: float = 0.95
) -> Interval:
    """A normal interval around a pooled number, cut to [0, 1].

    The sites are taken as fixed, as in `common.statistics.macro_mean`, but weigh by their images:
    variance = sum (n_s / n)^2 var_s. Of an accuracy that is exact, since the pooled one is this
    very mean; of balanced accuracy and AUROC it holds as far as the sites are as mixed as their
    union.

    Args:
        mean: The pooled number.
        sites: (test images, bootstrap variance) of each site; a variance of None is not known.
        level: Of the interval.

    Returns:
        Without ends if any site's variance is not known.
    """
    known = [(n, variance) for n, variance in sites if variance is not None]
    if len(known) < len(sites) or not sites:
        return Interval(mean=mean)
    total = sum(n for n, _ in known)
    spread = math.sqrt(sum((n / total) ** 2 * variance for n, variance in known))
    half = float(stats.norm.isf((1 - level) / 2)) * spread
    return Interval(mean=mean, ci_low=max(0.0, mean - half), ci_high=min(1.0, mean + half))


def _adjusted(cells: Sequence[CellResult]) -> list[CellResult]:
    """Holm over the other arms, within budget and architecture: the rows of one column there."""
    families: dict[tuple[float, str], list[int]] = {}
    for place, cell in enumerate(cells):
        if cell.p is not None:
            families.setdefault((cell.budget, cell.architecture), []).append(place)
    adjusted: dict[int, float] = {}
    for places in families.values():
        values = statistics.holm([p for place in places if (p := cells[place].p) is not None])
        adjusted |= dict(zip(places, values, strict=True))
    return [
        cell.model_copy(update={"p_holm": adjusted.get(place)}) for place, cell in enumerate(cells)
    ]


def _selected(selection: Selection, chosen: Chosen) -> SelectedResult:
    return SelectedResult(
        arm=selection.arm,
        strategy=selection.strategy,
        words=chosen.words or how(selection),
        pool=dict(chosen.pool),
        selected={budget: dict(sites) for budget, sites in chosen.selected.items()},
        overlap=dict(chosen.overlap),
        embedding={site: dict(numbers) for site, numbers in chosen.embedding.items()},
        cohort=dict(chosen.cohort),
        regrouped=dict(chosen.regrouped),
        due=dict(chosen.due),
    )
