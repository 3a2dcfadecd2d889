"""evaluate: a member's weights come, its probabilities on the test images stay; then the scores.

First each member is asked for once, with its weights: the site writes its probabilities into its
own folder. Then one request without weights: the site fuses them arm by arm, scores them, writes
tables and pictures into its own folder, and answers with means, intervals and paired tests.
"""

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.data.site import SiteData
from clients.evaluation import TABLE_COLUMNS, ArmScores, Prediction, score_images
from clients.evaluation import join_scores, summarise, tabulate
from clients.infusion import fuse
from clients.norm import last_norm
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages.adapt import image_batches
from clients.training import adapt_batch_norm, autocast
from common.models.branches import load_shared, segmentation_network
from common.plan import Arm, split_member
from common.seeds import seed_of

BATCH = 64
NUMBERS = ("n_images", "n_patients", "n")


def run(request: Request) -> Result:
    """Predict with one member, or (no member named) score all arms."""
    return predict(request) if request.target else score(request)


def predict(request: Request) -> Result:
    """Write a member's probabilities (N, C, H, W) on the test images in the site's folder.

    Where BatchNorm stays local, a site that took part uses its own, any other recomputes the
    statistics on its own images (AdaBN).
    """
    study, compute = request.study, request.study.compute
    data = open_site(request.site, study)
    network = segmentation_network(study)
    load_shared(network, request.weights)
    network.to(compute.device)
    if study.federation.norm == "local":
        key, _ = split_member(request.target)
        own = last_norm(request, key)
        if own is not None:
            network.load_state_dict({**network.state_dict(), **own})
        else:
            pool = training_rows(data, "adapt")
            adapt_batch_norm(network, image_batches(data, pool, compute))
    network.eval()
    parts = []
    with torch.inference_mode():
        for images_B1HW in image_batches(data, data.split.test, compute):
            with autocast(compute):
                logits_BCHW = network(images_B1HW)
            parts.append(logits_BCHW.float().sigmoid().cpu().numpy())
    path = prediction_file(request, request.target)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.concatenate(parts))
    partial.replace(path)
    return Result({})


def score(request: Request) -> Result:
    """Fuse, score and compare all arms; per-image numbers stay in the site's folder."""
    study, plan = request.study, request.plan
    data = open_site(request.site, study)
    rows = data.split.test
    # An arm without members at this site (an adaptation of other sites only) is not scored here.
    arms = {name: arm for name, arm in plan.arms.items() if arm.members.get(request.site.name)}
    referenced = bool(data.has_mask[rows].all())
    scores = {name: _score_arm(request, data, arm, referenced) for name, arm in arms.items()}
    names = [data.rows[row].id for row in rows]
    clusters = data.clusters[rows]
    main = next(iter(arms))
    flat = summarise(
        scores,
        clusters,
        main=main,
        classes=study.classes,
        samples=study.evaluate.bootstrap,
        seed=seed_of(study.seed, "bootstrap", request.site.name),
    )
    table = tabulate(scores, names, clusters, classes=study.classes)
    write_table(request.site.folder / "scores.csv", table)
    return Result(
        {
            name: int(value) if name.rpartition(".")[2] in NUMBERS else float(value)
            for name, value in flat.items()
        }
    )


def fused_test_set(
    request: Request, data: SiteData, arm: Arm, start: int, stop: int
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """An arm's fused probabilities and its branches', (n, C, H, W), of a slice of the test set."""
    members = [
        torch.from_numpy(np.load(prediction_file(request, m), mmap_mode="r")[start:stop].copy())
        for m in arm.members[request.site.name]
    ]
    fused = fuse(members, arm.infusion)
    return fused.numpy(), [member.numpy() for member in members]


def prediction_file(request: Request, member: str) -> Path:
    """Where a member's probabilities lie in the site's own folder."""
    return request.site.folder / "predictions" / f"{member.replace('/', '.')}.npy"


def write_table(path: Path, table: list[dict[str, str | float]]) -> None:
    """Write the per-image table (it stays at the site)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, TABLE_COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def _score_arm(request: Request, data: SiteData, arm: Arm, referenced: bool) -> ArmScores:
    rows = data.split.test
    parts = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        fused, branches = fused_test_set(request, data, arm, start, start + BATCH)
        reference = data.masks(chosen, stage="evaluate") if referenced else None
        parts.append(score_images(Prediction(fused, branches), reference))
    return join_scores(parts)
