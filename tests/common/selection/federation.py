"""The federated halves put together over sites in one process; everything crosses as it would."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from common.selection.assignment import lloyd_step, moments_of
from common.selection.cut import (
    Cut,
    Keys,
    budget_of,
    chosen,
    count_keys,
    narrow,
    open_cut,
    score_words,
)
from common.selection.kmeans import Clustering, advance, start
from common.selection.lattice import exponent_of, to_lattice
from common.selection.ranks import make_tables, measure


@dataclass
class Site:
    """One hospital: embeddings and digests, in the order of the ids."""

    images: np.ndarray
    reconstructions: np.ndarray | None
    digests: list[str]


@dataclass
class Outcome:
    scores: list[np.ndarray]
    clusters: list[np.ndarray]
    centroids: np.ndarray
    chosen: dict[float, list[np.ndarray]]
    rounds: int


def split(
    images: np.ndarray, partners: np.ndarray | None, digests: Sequence[str], ends: Sequence[int]
) -> list[Site]:
    """Consecutive parts as sites; some may be empty."""
    edges = [0, *ends, len(images)]
    return [
        Site(images[a:b], None if partners is None else partners[a:b], list(digests[a:b]))
        for a, b in itertools.pairwise(edges)
    ]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def find_cut(keys: dict[str, Keys], budgets: Sequence[int]) -> tuple[Cut, int]:
    """Rounds of counts, with the server's state going through JSON and the sites' through words."""
    cut = open_cut(budgets)
    rounds = 0
    while not cut.finished:
        words = cut.to_words()
        counts = {site: count_keys(own, Cut.from_words(words)) for site, own in keys.items()}
        cut = Cut.from_json(through_json(narrow(cut, counts).to_json()))
        rounds += 1
    return cut, rounds


def choose(
    keys: dict[str, Keys], alphas: Sequence[float]
) -> tuple[dict[float, list[np.ndarray]], int]:
    number = sum(len(own.scores) for own in keys.values())
    cut, rounds = find_cut(keys, [budget_of(alpha, number) for alpha in alphas])
    result: dict[float, list[np.ndarray]] = {alpha: [] for alpha in alphas}
    for site, own in keys.items():
        received = Cut.from_words(cut.to_words(site), site)
        for alpha, bound in zip(alphas, received.bounds, strict=True):
            result[alpha].append(chosen(own, bound, site))
    return result, rounds


def federated(
    sites: Sequence[Site], *, study: str, alphas: Sequence[float], **options: Any
) -> Outcome:
    metric = options["metric"]
    exponent = 0
    if metric == "euclidean":
        exponent = max(
            exponent_of(z)
            for site in sites
            for z in (site.images, site.reconstructions)
            if z is not None and len(z)
        )
    points = [to_lattice(site.images, metric=metric, exponent=exponent) for site in sites]
    pooled = moments_of(points[0])
    for own in points[1:]:
        pooled = pooled + moments_of(own)
    state = start(
        pooled, **{name: options[name] for name in
                   ("clusters", "restarts", "iterations", "metric", "seed")}
    )  # fmt: skip
    while not state.finished:
        total = lloyd_step(points[0], state.centroids)
        for own in points[1:]:
            total = total + lloyd_step(own, state.centroids)
        state = Clustering.from_json(through_json(advance(state, total).to_json()))
    partners = [
        None
        if site.reconstructions is None
        else to_lattice(site.reconstructions, metric=metric, exponent=exponent)
        for site in sites
    ]
    measured = [
        measure(own, other, state.result, uncertainty=options["uncertainty"], metric=metric)
        for own, other in zip(points, partners, strict=True)
    ]
    histograms = cast(np.ndarray, sum(own.histograms for own in measured))
    tables = make_tables(
        histograms,
        with_distance=sites[0].reconstructions is not None,
        **{name: options[name] for name in
           ("clusters", "omega", "uncertainty", "combine", "representative", "metric")},
    )  # fmt: skip
    scores = [tables.score(own) for own in measured]
    keys = {
        str(place): Keys(score_words(own), site.digests, study)
        for place, (own, site) in enumerate(zip(scores, sites, strict=True))
    }
    picked, rounds = choose(keys, alphas)
    return Outcome(scores, [own.cluster for own in measured], state.result, picked, rounds)
