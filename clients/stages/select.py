"""select: which images of a target's pool are annotated; the worklists stay, counts go back.

Steps: `rank` (each image gets its score, or the strategy makes its choice), then either `cut`
(counts of keys by their next digit, round by round) and `choose` (one key comes, behind which none
is chosen), or `quota` (the site takes its own share).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from clients.annotations import Choice, read_worklist, worklist_path, write_worklist
from clients.asked import keep_asked
from clients.classifiers import load_classifier
from clients.cohort import merge_cells
from clients.embeddings import keep_arrays, load_arrays, load_measured, pool_digests
from clients.reasons import dual_reasons, reason_of
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages.score import cohort_of
from clients.strategies.pool import read_pool
from clients.strategies.registry import Strategy, strategy_of
from common.config.arms import BOUND_ARMS
from common.config.selection import budget_name
from common.config.stages import Compute
from common.config.study import Study
from common.seeds import seed_of
from common.selection.cut import (
    Cut,
    Keys,
    budget_of,
    chosen,
    count_keys,
    ranking,
    score_words,
    select,
)
from common.selection.ranks import make_tables

RANKING = "ranking"


def run(request: Request) -> Result:
    """Answer one step.

    Raises:
        InputError: If an earlier step or stage has not run here, or a strategy breaks its promise.
    """
    return {"rank": rank, "cut": cut, "choose": choose, "quota": quota}[request.step](request)


def rank(request: Request) -> Result:
    """Score the pool, or have a strategy choose from it at every budget."""
    selection = request.selection
    images = len(_ids(request))
    if selection.strategy == "dual":
        scores, reasons = _dual(request)
        kept = {"scores": scores, "reasons": np.array(reasons)}
    else:
        kept = _by_strategy(request, strategy_of(selection.strategy), images)
    keep_arrays(request.site, selection.arm, RANKING, kept)
    return Result(
        {
            "images": images,
            "pointwise": int("scores" in kept),
            "min_cohort": cohort_of(request),
            "regrouped": _regrouped(request),
        }
    )


def _regrouped(request: Request) -> int:
    """Images of the pool that were not counted in their own cell of uncertainty or distance.

    As any other number: none is told where it would stand for fewer than the cohort.
    """
    cohort = cohort_of(request)
    if request.selection.strategy != "dual" or cohort <= 1:
        return 0
    own = load_measured(request.site, request.selection.arm).histograms
    # Of a cell's images those that are missing there now have been counted elsewhere, or not told.
    moved = int(np.maximum(own - merge_cells(own, cohort), 0).sum(axis=1).max())
    return moved if moved >= cohort else 0


def _dual(request: Request) -> tuple[NDArray[np.float64], list[str]]:
    """P2 Eq. 4 from the pooled histograms."""
    selection, settings = request.selection, request.selection.settings
    measured = load_measured(request.site, selection.arm)
    histograms = request.weights["histograms"].numpy()
    tables = make_tables(
        histograms,
        clusters=settings.clusters,
        omega=settings.omega,
        uncertainty=settings.uncertainty,
        combine=settings.combine,
        representative=settings.representative,
        metric=selection.metric,
        with_distance=measured.has_distance,
    )
    return tables.score(measured), dual_reasons(selection, measured, histograms)


def _by_strategy(
    request: Request, strategy: Strategy, images: int
) -> dict[str, NDArray[np.generic]]:
    selection, study = request.selection, request.study
    if strategy.name == "random":  # it asks for no classifier
        return {"scores": np.zeros(images)}
    training = request.plan.trainings[selection.embedding]
    data = open_site(request.site, study)
    pool = read_pool(
        load_classifier(study, training.architecture, request.weights),
        data.images(training_rows(data, "select")),
        seed=seed_of(study.seed, "select", selection.arm, request.site.name),
        settings=study.select,
        threads=study.compute.threads,
        device=study.compute.device,
    )
    if strategy.pointwise:
        return {"scores": strategy.scores(pool)}
    return {
        budget_name(budget): strategy.chosen(pool, budget_of(budget, images))
        for budget in selection.budgets
    }


def cut(request: Request) -> Result:
    """Count the pool's keys that begin with the known digits, by the next one."""
    keys, _ = _keys(request)
    counts = count_keys(keys, Cut.from_words(request.weights["cut"].numpy()))
    return Result({}, {"counts": torch.from_numpy(merge_cells(counts, cohort_of(request)))})


def choose(request: Request) -> Result:
    """Take every image up to the cut, and write the worklists."""
    site = request.site.name
    keys, order = _keys(request)
    found = Cut.from_words(request.weights["cut"].numpy(), site)
    lists = []
    for bound in found.bounds:
        taken = chosen(keys, bound, site)
        lists.append(order[_ranked(request, keys, order, taken)])
    return _write(request, lists)


def quota(request: Request) -> Result:
    """Take the site's own share, and write the worklists."""
    selection = request.selection
    kept = load_arrays(request.site, selection.arm, RANKING)
    if "scores" not in kept:
        return _write(request, [kept[budget_name(budget)] for budget in selection.budgets])
    keys, order = _keys(request)
    scores = kept["scores"][order]
    ties = keys.ties(np.arange(len(order)))
    return _write(
        request,
        [
            order[_ranked(request, keys, order, select(scores, budget, ties=ties))]
            for budget in selection.budgets
        ],
    )


def _ranked(
    request: Request, keys: Keys, order: NDArray[np.intp], taken: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The taken ones, first the one to be annotated first."""
    scores = load_arrays(request.site, request.selection.arm, RANKING)["scores"]
    return taken[ranking(scores[order][taken], keys.ties(taken))]


def _write(request: Request, lists: Sequence[NDArray[np.intp]]) -> Result:
    """Worklists of every budget, from places in the pool in rank order; counts go back."""
    selection, folder = request.selection, request.site.folder
    keep_asked(folder, request.study)
    ids = _ids(request)
    kept = load_arrays(request.site, selection.arm, RANKING)
    dual = selection.strategy == "dual"
    measured = load_measured(request.site, selection.arm) if dual else None
    reasons = kept["reasons"] if dual else None
    words = "Every image is annotated." if selection.arm in BOUND_ARMS else ""
    words = words or reason_of(selection.strategy)
    counts: dict[str, float | int] = {}
    for budget, places in zip(selection.budgets, lists, strict=True):
        choices = []
        for number, place in enumerate(places, start=1):
            uncertainty = distance = None
            if measured is not None:
                uncertainty = float(measured.uncertainty[place])
                distance = float(measured.distance[place]) if measured.has_distance else None
            reason = words if reasons is None else str(reasons[place])
            choices.append(Choice(ids[place], number, reason, uncertainty, distance))
        write_worklist(folder, selection.arm, budget, choices)
        name = budget_name(budget)
        counts[f"selected.{name}"] = len(choices)
        counts[f"shared.{name}"] = len(
            {choice.id for choice in choices} & _leading(request, budget)
        )
    return Result(counts)


def _leading(request: Request, budget: float) -> set[str]:
    """What the leading arm chose at this budget, if it has chosen."""
    leading = next((s for s in request.plan.selections if s not in BOUND_ARMS), "")
    folder = request.site.folder
    if not leading or not worklist_path(folder, leading, budget).exists():
        return set()
    return {choice.id for choice in read_worklist(folder, leading, budget)}


def _ids(request: Request) -> list[str]:
    """Ids of the pool, in its order."""
    data = open_site(request.site, request.study)
    return [data.rows[row].id for row in training_rows(data, "select")]


def _keys(request: Request) -> tuple[Keys, NDArray[np.intp]]:
    """Keys of the pool in the order of its ids, and that order."""
    order = np.array(sorted(range(len(ids := _ids(request))), key=ids.__getitem__), np.intp)
    scores = load_arrays(request.site, request.selection.arm, RANKING)["scores"]
    digests = pool_digests(request)
    return Keys(
        score_words(scores[order]), [digests[place] for place in order], tie_digest(request.study)
    ), order


def tie_digest(study: Study) -> str:
    """What orders images of equal score: the study without the machine that it runs on."""
    return study.model_copy(update={"compute": Compute()}).digest
