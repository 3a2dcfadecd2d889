"""selection.html of a site: what its arms asked for and why, full of its images. It stays here.

The server's report has counts, means and histograms of the same; no image and no point crosses.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.annotations import Choice, annotated, read_worklist
from clients.data.site import SiteData
from clients.embeddings import load_arrays, load_embedded, load_measured
from clients.reconstruction import reconstructions, site_edges
from clients.report import TEMPLATES
from clients.request import Request
from clients.selection_pictures import (
    ends,
    picture,
    sample,
    score_plot,
    sphere_plot,
    tsne,
    tsne_plot,
)
from clients.site import open_site, training_rows
from common import page
from common.config.arms import BOUND_ARMS, MAIN_SELECTION_ARMS
from common.plan import Selection
from common.seeds import seed_of
from common.selection.ranks import Measured

PAGE = "selection.html"
LISTED = 30
"""Lines of the worklist that the page shows."""

Squares = NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """What one arm asked for at one budget.

    Attributes:
        arm: The arm.
        budget: Share of the pool.
        wanted: Images on the worklist.
        labels: Label to how many of them the experts gave it.
    """

    arm: str
    budget: float
    wanted: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Listed:
    """One line of the worklist, with what is known of it and, in the gallery, its pictures.

    Attributes:
        choice: The line.
        score: What the arm ranked it by; None where the arm chose without scores.
        cluster: From 1; None where there are no clusters.
        image_HW: The image.
        edges_HW: Its edges, white on black; None where nothing is redrawn.
        redrawn_HW: Its reconstruction; None where nothing is redrawn.
    """

    choice: Choice
    score: float | None = None
    cluster: int | None = None
    image_HW: Squares | None = None
    edges_HW: Squares | None = None
    redrawn_HW: Squares | None = None


@dataclass(frozen=True)
class Cloud:
    """The pool's points, or some of them: N images.

    Attributes:
        z_ND: Embeddings.
        measured: What the dual score is made of, of the same images.
        chosen: Arm to (N,) whether it chose the image at the smallest budget.
        total: Images of the pool.
        arm: Whose embedding and clusters these are.
    """

    z_ND: NDArray[np.floating]
    measured: Measured
    chosen: Mapping[str, NDArray[np.bool_]]
    total: int
    arm: str


def write_selection_page(request: Request) -> Path | None:
    """Write `selection.html` into the site's own folder.

    Args:
        request: Of a target, after every arm has chosen and the experts have annotated; of its
            fields the site, the study and the plan count.

    Returns:
        Its path; None where no arm selects, or the study wants no pictures (`evaluate.overlays`).
    """
    arms = [
        selection for arm, selection in request.plan.selections.items() if arm not in BOUND_ARMS
    ]
    if not arms or not request.study.evaluate.overlays:
        return None
    study, site = request.study, request.site
    data = open_site(site, study)
    path = site.folder / PAGE
    partial = path.with_suffix(".partial")
    text = render(
        site=site.name,
        study=study.name,
        digest=study.digest,
        synthetic=data.synthetic,
        main=arms[0].arm,
        budget=min(arms[0].budgets),
        pool=len(training_rows(data, "select")),
        labels=study.labels,
        asked=_asked(request),
        worklist=_worklist(request, data, arms[0]),
        gallery=_gallery(request, data, arms[0]),
        cloud=_cloud(request, data),
        seed=seed_of(study.seed, "pictures", site.name) % 2**32,
    )
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def render(
    *,
    site: str,
    study: str,
    digest: str,
    synthetic: bool,
    main: str,
    budget: float,
    pool: int,
    labels: Sequence[str],
    asked: Sequence[Asked],
    worklist: Sequence[Listed],
    gallery: Sequence[Listed],
    cloud: Cloud | None,
    seed: int,
) -> str:
    """The page as HTML; the same input gives the same bytes.

    Args:
        site: Its name.
        study: The study's name.
        digest: Its SHA-256.
        synthetic: Whether the images are the phantom's.
        main: The leading arm.
        budget: The one that is shown.
        pool: Images that could be chosen.
        labels: The study's.
        asked: Every arm at every budget.
        worklist: The leading arm's, in rank order, without pictures.
        gallery: First and last of it, with pictures.
        cloud: The pool's points; None where no arm of the dual score is there.
        seed: Of t-SNE.
    """
    shown = [worklist[place] for place in ends(len(worklist), LISTED)]
    sphere, share = (
        sphere_plot(cloud.z_ND, cloud.measured.cluster) if cloud is not None else (None, 0.0)
    )
    measured = cloud.measured if cloud is not None else None
    lead = cloud.chosen.get(cloud.arm) if cloud is not None else None
    return page.environment(TEMPLATES).get_template("selection.html.md").render(
        site=site,
        study=study,
        digest=digest,
        synthetic=synthetic,
        main=main,
        budget=budget,
        pool=pool,
        labels=labels,
        asked=asked,
        worklist=shown,
        left_out=len(worklist) - len(shown),
        total=len(worklist),
        gallery=[_pictures(item) for item in gallery],
        sphere=sphere,
        share=share,
        clusters=sorted({int(c) for c in measured.cluster}) if measured is not None else [],
        points=len(cloud.z_ND) if cloud is not None else 0,
        of=cloud.total if cloud is not None else 0,
        arm=cloud.arm if cloud is not None else "",
        tsne=(
            tsne_plot(tsne(cloud.z_ND, seed), cloud.chosen, main)
            if cloud is not None and len(cloud.z_ND) > 2 and cloud.chosen
            else None
        ),
        scatter=(
            score_plot(measured.uncertainty, measured.distance, lead)
            if measured is not None and measured.has_distance and lead is not None
            else None
        ),
    )  # fmt: skip


def _pictures(item: Listed) -> dict[str, Any]:
    name = item.choice.id
    panels = [
        {"label": label, "svg": picture(pixels_HW, alt=f"{name}: {label}")}
        for label, pixels_HW in (
            ("image", item.image_HW),
            ("edges", item.edges_HW),
            ("reconstruction", item.redrawn_HW),
        )
        if pixels_HW is not None
    ]
    return {"item": item, "panels": panels}


def _asked(request: Request) -> list[Asked]:
    folder = request.site.folder
    found = []
    for selection in request.plan.selections.values():
        for budget in selection.budgets:
            wanted = len(read_worklist(folder, selection.arm, budget))
            _, said = annotated(folder, selection.arm, budget)
            counts = {label: said.count(label) for label in request.study.labels}
            found.append(Asked(selection.arm, budget, wanted, counts))
    return found


def _worklist(request: Request, data: SiteData, selection: Selection) -> list[Listed]:
    """The arm's choice at its smallest budget, in rank order."""
    places = _places(data)
    scores = load_arrays(request.site, selection.arm, "ranking").get("scores")
    dual = selection.strategy == "dual"
    clusters = load_measured(request.site, selection.arm).cluster if dual else None
    return [
        Listed(
            choice,
            None if scores is None or selection.arm == "random" else float(scores[place]),
            None if clusters is None else int(clusters[place]) + 1,
        )
        for choice in read_worklist(request.site.folder, selection.arm, min(selection.budgets))
        for place in [places[choice.id]]
    ]


def _gallery(request: Request, data: SiteData, selection: Selection) -> list[Listed]:
    """First and last of the arm's choice, with their pictures."""
    listed = _worklist(request, data, selection)
    listed = [listed[n] for n in ends(len(listed), min(12, request.study.evaluate.overlays))]
    rows, places = training_rows(data, "select"), _places(data)
    at = np.array([places[item.choice.id] for item in listed], dtype=np.int64)
    images_NSS = data.images(rows)
    edges_nSS = redrawn_nSS = None
    if request.plan.reconstructing and len(at):
        edges_nSS = (site_edges(request.site, images_NSS).of(at) * 255).astype(np.uint8)
        redrawn_nSS = np.asarray(reconstructions(request.site, request.study)[at])
    return [
        replace(
            item,
            image_HW=images_NSS[at[n]],
            edges_HW=None if edges_nSS is None else edges_nSS[n],
            redrawn_HW=None if redrawn_nSS is None else redrawn_nSS[n],
        )
        for n, item in enumerate(listed)
    ]


def _cloud(request: Request, data: SiteData) -> Cloud | None:
    """The pool as the first arm of the dual score sees it."""
    selections = request.plan.selections
    lead = next((s for s in selections.values() if s.strategy == "dual"), None)
    if lead is None:
        return None
    ids = [data.rows[row].id for row in training_rows(data, "select")]
    shown = sample(len(ids), seed_of(request.study.seed, "points", request.site.name) % 2**32)
    measured = load_measured(request.site, lead.arm)
    chosen = {}
    for arm, selection in selections.items():
        # Ablations are many and alike; what the paper compares are the arms of every budget.
        ablation = selection.strategy == "dual" and arm not in MAIN_SELECTION_ARMS
        if arm != lead.arm and (ablation or arm in BOUND_ARMS):
            continue
        worklist = read_worklist(request.site.folder, arm, min(selection.budgets))
        named = {choice.id for choice in worklist}
        chosen[arm] = np.array([ids[place] in named for place in shown], dtype=bool)
    return Cloud(
        z_ND=np.asarray(load_embedded(replace(request, target=lead.arm)).images[shown]),
        measured=Measured(
            measured.uncertainty[shown],
            measured.distance[shown],
            measured.cluster[shown],
            measured.u_cells[shown],
            measured.r_cells[shown],
            measured.has_distance,
        ),
        chosen=chosen,
        total=len(ids),
        arm=lead.arm,
    )


def _places(data: SiteData) -> dict[str, int]:
    """Image to its place in the pool."""
    return {data.rows[row].id: n for n, row in enumerate(training_rows(data, "select"))}
