"""A target where arms have chosen, with invented embeddings and reconstructions of its images."""

import json

import numpy as np
from scipy.ndimage import gaussian_filter

from clients.annotations import Choice, Label, add_labels, write_worklist
from clients.edges import digest_of_images
from clients.embeddings import keep_arrays, keep_measured
from clients.reconstruction import FOLDER, redrawn_rows
from clients.request import Request
from clients.settings import SiteSettings
from clients.site import open_site, training_rows
from common.config.arms import BOUND_ARMS
from common.config.study import Study
from common.plan import make_plan
from common.selection.cut import budget_of
from common.selection.ranks import Measured

CLUSTERS = 4


def selected_request(site: SiteSettings, study: Study) -> Request:
    """What the last step of `classify` would be asked; everything before it is invented."""
    plan = make_plan(study)
    request = Request(site, study, plan, "classify")
    data = open_site(site, study)
    rng = np.random.default_rng(3)
    rows = training_rows(data, "select")
    ids = [data.rows[row].id for row in rows]
    images_NSS = data.images(rows)
    centres = rng.normal(size=(CLUSTERS, 16))
    cluster_N = rng.integers(0, CLUSTERS, len(ids))
    z_ND = centres[cluster_N] + rng.normal(0, 0.55, (len(ids), 16))
    z_ND /= np.linalg.norm(z_ND, axis=1, keepdims=True)
    theta_Nk = np.arccos(
        np.clip(z_ND @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T, -1, 1)
    )
    ordered_Nk = np.sort(theta_Nk, axis=1)
    cells = np.zeros(len(ids), np.int16)
    measured = Measured(
        ordered_Nk[:, 1] - ordered_Nk[:, 0], rng.gamma(4.0, 0.12, len(ids)),
        theta_Nk.argmin(axis=1), cells, cells, plan.reconstructing,
    )  # fmt: skip
    for arm, selection in plan.selections.items():
        dual = selection.strategy == "dual"
        scores = rng.random(len(ids))
        if dual:
            keep_measured(site, arm, measured)
            scores = measured.uncertainty.argsort().argsort() / len(ids)
            scores = scores + measured.distance.argsort().argsort() / len(ids)
            folder = site.folder / "embeddings" / selection.embedding
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("images", "reconstructions"):
                np.save(folder / f"{name}.npy", z_ND.astype(np.float32))
            (folder / "record.json").write_text(json.dumps({"weights": "w", "pixels": "p"}))
        keep_arrays(site, arm, "ranking", {"scores": scores})
        for budget in selection.budgets:
            taken = np.argsort(scores)[: budget_of(budget, len(ids))]
            choices = [
                Choice(
                    ids[place], rank, "Between two groups of images." if dual else f"By {arm}.",
                    float(measured.uncertainty[place]) if dual else None,
                    float(measured.distance[place]) if dual and plan.reconstructing else None,
                )
                for rank, place in enumerate(taken, start=1)
            ]  # fmt: skip
            write_worklist(site.folder, arm, budget, choices)
            if arm not in BOUND_ARMS:
                add_labels(
                    site.folder,
                    [Label(c.id, study.labels[c.rank % 2], "r", "2027-03-01T00:00:00Z", "0" * 64)
                     for c in choices[1:]],
                )  # fmt: skip
    if plan.reconstructing:
        folder = site.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        redrawn = [
            gaussian_filter(image, 1.5) for image in data.images(redrawn_rows(data, "target"))
        ]
        np.save(folder / "invented.npy", np.stack(redrawn))
        latest = {"key": "invented", "pixels": digest_of_images(images_NSS)}
        (folder / "latest.json").write_text(json.dumps(latest))
    return request
