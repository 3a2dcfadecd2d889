"""score: k-means and histograms over all targets, from whole numbers that they send (P2 2.3).

What is asked: `embed` and `moments` once an embedding, `cluster` until k-means rests, `cells` once
an arm. Arms with equal embeddings share them, and equal clusterings as well. State after every
reply that costs a site more than a moment, and after every round of `cluster`: a kill repeats one
round at most, and its answers are identical.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.branches import State
from common.plan import Selection
from common.seeds import seed_of
from common.selection.assignment import Moments, Sums
from common.selection.kmeans import Clustering, advance, start
from common.selection.lattice import CELLS
from server.checkpoint import Traffic
from server.context import ServerContext, StudyStopped
from server.exchange import Reply
from server.stages import choosing
from server.steps import ask_sites

Counts = NDArray[np.int64]


def run(context: ServerContext, selection: Selection) -> None:
    """Bring an arm of the dual score to its pooled histograms.

    Raises:
        StudyStopped: If a site refuses, or there are fewer images than clusters.
    """
    _embed(context, selection)
    clustering = _cluster(context, selection)
    _cells(context, selection, clustering)


def histograms(context: ServerContext, selection: Selection) -> Counts:
    """(2, 4096) pooled images by cell of uncertainty and of distance; `run` done."""
    pooled = np.zeros((2, CELLS), np.int64)
    for own in context.run.read_state(_cells_name(selection))["histograms"].values():
        for row, (cells, images) in zip(pooled, own, strict=True):
            row[cells] += np.array(images, np.int64)
    return pooled


def embedding(context: ServerContext, selection: Selection) -> dict[str, dict[str, float]]:
    """By site the mean angle and effective rank of its embeddings, where it tells them."""
    if selection.strategy != "dual":
        return {}
    state = context.run.read_state(_embedding_name(selection)) or {"sites": {}}
    return {
        site: {name: own[name] for name in ("mean_angle", "effective_rank")}
        for site, own in state["sites"].items()
        if own["effective_rank"]
    }


def traffic(context: ServerContext) -> Traffic:
    """Bytes of this stage by site, over all arms."""
    names = dict.fromkeys(
        name
        for selection in context.plan.selections.values()
        if selection.strategy == "dual"
        for name in (
            _embedding_name(selection), _clustering_name(selection), _cells_name(selection),
        )
    )  # fmt: skip
    total: Traffic = {}
    for name in names:
        for site, moved in (context.run.read_state(name) or {"traffic": {}})["traffic"].items():
            at = total.setdefault(site, {"down": 0, "up": 0})
            at["down"] += moved["down"]
            at["up"] += moved["up"]
    return total


def counts_of(reply: Reply, selection: Selection, name: str) -> Counts:
    """A reply's tensor of counts.

    Raises:
        StudyStopped: If one of them is negative: the site's software is not sound.
    """
    counts: Counts = reply.weights[name].numpy()
    if (counts < 0).any():
        raise StudyStopped(f"{selection.arm}: {reply.site} sent a negative number of images")
    return counts


def _embedding_name(selection: Selection) -> str:
    return f"score/embeddings/{selection.embedding}"


def _clustering_name(selection: Selection) -> str:
    settings = selection.settings
    stated = (settings.clusters, settings.restarts, settings.iterations, settings.min_cohort)
    return f"score/clusterings/{selection.embedding}/{'-'.join(map(str, stated))}"


def _cells_name(selection: Selection) -> str:
    return f"score/cells/{selection.arm}"


def _embed(context: ServerContext, selection: Selection) -> None:
    """Have every target embed its pool."""
    name = _embedding_name(selection)
    state: dict[str, Any] = context.run.read_state(name) or {"sites": {}, "traffic": {}}
    left = [site for site in choosing.sites(context) if site not in state["sites"]]
    if not left:
        return
    weights = context.result(selection.embedding)
    for reply in ask_sites(
        context, "query", "score", left, traffic=state["traffic"], key=selection.arm,
        step="embed", weights=weights,
    ):  # fmt: skip
        state["sites"][reply.site] = dict(reply.metrics)
        context.run.write_state(name, state)


def _moments(
    context: ServerContext, selection: Selection, sites: Sequence[str], state: dict[str, Any]
) -> Moments:
    """Pooled count, sum and sum of squares; the exponent is the largest that a site needs."""
    told = context.run.read_state(_embedding_name(selection))["sites"]
    exponent = max(int(told[site]["exponent"]) for site in sites)
    pooled: Moments | None = None
    for reply in ask_sites(
        context, "query", "score", sites, traffic=state["traffic"],
        key=selection.arm, step="moments", weights={"exponent": torch.tensor([exponent])},
    ):  # fmt: skip
        own = Moments(
            int(reply.metrics["images"]),
            reply.weights["sum"].numpy(),
            reply.weights["square"].numpy(),
        )
        pooled = own if pooled is None else pooled + own
    assert pooled is not None
    if pooled.count < selection.settings.clusters:
        raise StudyStopped(
            f"score, {selection.arm}: {selection.settings.clusters} clusters, but only "
            f"{pooled.count} images are told of; lower score.clusters or score.min_cohort"
        )
    return pooled


def _cluster(context: ServerContext, selection: Selection) -> Clustering:
    """Run what is left of k-means; where a site has left in the middle of it, all of it again.

    Pooled sums are of the same images in every iteration.
    """
    name = _clustering_name(selection)
    state: dict[str, Any] = context.run.read_state(name) or {"clustering": None, "traffic": {}}
    clustering = Clustering.from_json(state["clustering"]) if state["clustering"] else None
    while clustering is None or not clustering.finished:
        sites = choosing.sites(context)
        if clustering is None or set(sites) != set(state.get("sites", context.study.targets)):
            clustering = _start(context, selection, sites, state)
            state["sites"] = list(sites)
        else:
            clustering = _step(context, selection, sites, state, clustering)
        state["clustering"] = clustering.to_json()
        context.run.write_state(name, state)
    return clustering


def _start(
    context: ServerContext, selection: Selection, sites: Sequence[str], state: dict[str, Any]
) -> Clustering:
    settings = selection.settings
    return start(
        _moments(context, selection, sites, state),
        clusters=settings.clusters,
        restarts=settings.restarts,
        iterations=settings.iterations,
        metric=selection.metric,
        seed=seed_of(context.study.seed, "clusters", selection.embedding),
    )


def _step(
    context: ServerContext,
    selection: Selection,
    sites: Sequence[str],
    state: dict[str, Any],
    clustering: Clustering,
) -> Clustering:
    pooled: Sums | None = None
    for reply in ask_sites(
        context, "query", "score", sites, traffic=state["traffic"], key=selection.arm,
        step="cluster", round_=clustering.iteration + 1,
        weights={"centroids": torch.from_numpy(clustering.centroids)},
    ):  # fmt: skip
        own = Sums(reply.weights["sums"].numpy(), counts_of(reply, selection, "counts"))
        pooled = own if pooled is None else pooled + own
    assert pooled is not None
    return advance(clustering, pooled)


def _cells(context: ServerContext, selection: Selection, clustering: Clustering) -> None:
    """Histograms of uncertainty and distance from every target."""
    name = _cells_name(selection)
    state: dict[str, Any] = context.run.read_state(name) or {"histograms": {}, "traffic": {}}
    left = [site for site in choosing.sites(context) if site not in state["histograms"]]
    weights: State = {"centroids": torch.from_numpy(np.ascontiguousarray(clustering.result))}
    for reply in ask_sites(
        context, "query", "score", left, traffic=state["traffic"], key=selection.arm,
        step="cells", weights=weights,
    ):  # fmt: skip
        both = [counts_of(reply, selection, which) for which in ("uncertainty", "distance")]
        state["histograms"][reply.site] = [  # few of 4096 cells have images
            [np.flatnonzero(own).tolist(), own[own != 0].tolist()] for own in both
        ]
        context.run.write_state(name, state)
    if not histograms(context, selection).sum():
        raise StudyStopped(
            f"score, {selection.arm}: no site has as many images as its minimum cohort"
        )
