"""evaluate: a member's weights come, what it says of the test images stays; then the scores.

First each member is asked for once, with its weights: the site writes its probabilities into its
own folder. Then one request without weights: the site fuses them arm by arm, scores them, writes
tables and pictures into its own folder, and answers with means, intervals and paired tests.

Where the study scores representations, encoders come, their features stay, and the arms are scored
by retrieval and a linear probe (clients/representation.py).
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import representation
from clients.data.site import SiteData
from clients.evaluation import (
    TABLE_COLUMNS,
    ArmScores,
    Prediction,
    join_scores,
    score_images,
    summarise,
    tabulate,
)
from clients.norm import last_norm
from clients.predictions import fused_predictions, keep_prediction, prediction_file
from clients.request import Request, Result
from clients.site import judged_rows, open_site, training_rows
from clients.site_page import write_page
from clients.stages.adapt import image_batches
from clients.training import adapt_batch_norm, autocast
from common.config.stages import Adapt
from common.models.branches import (
    SegmentationModel,
    load_shared,
    member_of,
    segmentation_network,
)
from common.plan import Arm, split_member
from common.seeds import seed_of

BATCH = 64
NUMBERS = ("n_images", "n_patients", "n")


def run(request: Request) -> Result:
    """Predict with one member, or (no member named) score all arms."""
    if request.study.representation:
        return extract(request) if request.target else score_features(request)
    return predict(request) if request.target else score(request)


def predict(request: Request) -> Result:
    """Write a member's probabilities (N, C, H, W) on the judged images in the site's folder."""
    network = _network(request)
    rows = judged_rows(open_site(request.site, request.study))
    _over(request, rows, lambda images_B1HW: network(images_B1HW).float().sigmoid())
    return Result({})


def extract(request: Request) -> Result:
    """Write an encoder's features (N, D) of the test images in the site's folder."""
    network = _network(request)
    feature = cast(SegmentationModel, network).feature
    rows = open_site(request.site, request.study).split.test
    _over(request, rows, lambda images_B1HW: feature(images_B1HW).float())
    return Result({})


def _network(request: Request) -> nn.Module:
    """The incoming weights as a network.

    Where BatchNorm stays local, a site that took part uses its own, any other recomputes the
    statistics on its own images (AdaBN); so does every site for a member that was adapted with it.
    """
    study, compute = request.study, request.study.compute
    network = segmentation_network(study)
    load_shared(network, request.weights)
    network.to(compute.device)
    local = study.federation.norm == "local"
    own = _own_norms(request) if local else None
    if own is not None and own.keys() <= network.state_dict().keys():
        network.load_state_dict({**network.state_dict(), **own})
    elif local or _takes_own_statistics(request):
        data = open_site(request.site, study)
        pool = training_rows(data, "adapt")
        adapt_batch_norm(network, image_batches(data, pool, compute))
    return network.eval()


def _own_norms(request: Request) -> Mapping[str, Tensor] | None:
    """The member's BatchNorms that this site has kept, if it took part in the training."""
    key, index = split_member(request.target)
    own = last_norm(request, key)
    return member_of(own, index) if own is not None and "#" in request.target else own


def _takes_own_statistics(request: Request) -> bool:
    """Whether the member was adapted with AdaBN: then every site that uses it takes its own.

    What crossed is the mean over the targets' devices, which fits none of them.
    """
    training = request.plan.trainings.get(split_member(request.target)[0])
    return training is not None and isinstance(training.settings, Adapt) and training.settings.adabn


def _over(request: Request, rows: NDArray[np.int64], say: Callable[[Tensor], Tensor]) -> None:
    """Keep what a network says of the rows, in their order."""
    compute = request.study.compute
    data = open_site(request.site, request.study)
    parts = []
    with torch.inference_mode(), autocast(compute):
        for images_B1HW in image_batches(data, rows, compute):
            parts.append(say(images_B1HW).cpu().numpy())
    keep_prediction(request, np.concatenate(parts))


def score_features(request: Request) -> Result:
    """Retrieve and probe with every arm's features; per-frame numbers stay in the site's folder.

    Raises:
        InputError: If no test frame has another one of its video to be found.
    """
    study, plan = request.study, request.plan
    data = open_site(request.site, study)
    rows = data.split.test
    patients = data.clusters[rows]
    labels = data.labels(rows, stage="evaluate")
    arms = {}
    for name, arm in plan.arms.items():
        (member,) = arm.members[request.site.name]
        features_ND = np.load(prediction_file(request, member)).astype(np.float64)
        arms[name] = representation.Representation(
            representation.retrieve(
                features_ND,
                data.videos[rows],
                data.frames[rows],
                exclusion_gap=study.evaluate.exclusion_gap,
            ),
            representation.linear_probe(features_ND, labels, patients),
        )
    flat = representation.summarise(
        arms,
        patients,
        main=next(iter(arms)),
        samples=study.evaluate.bootstrap,
        seed=seed_of(study.seed, "bootstrap", request.site.name),
    )
    table = representation.tabulate(arms, [data.rows[row].id for row in rows], patients)
    write_table(request.site.folder / "scores.csv", table, representation.TABLE_COLUMNS)
    return Result(_typed(flat))


def score(request: Request) -> Result:
    """Fuse, score and compare all arms; per-image numbers stay in the site's folder."""
    study, plan = request.study, request.plan
    data = open_site(request.site, study)
    rows = judged_rows(data)
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
    if study.evaluate.overlays:
        write_page(request, data, table, flat, main)
    return Result(_typed(flat))


def write_table(
    path: Path, table: list[dict[str, str | float]], columns: Sequence[str] = TABLE_COLUMNS
) -> None:
    """Write the per-image table (it stays at the site)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)


def _typed(flat: Mapping[str, float]) -> dict[str, float | int]:
    """Counts as whole numbers, as the vocabulary wants them."""
    return {
        name: int(value) if name.rpartition(".")[2] in NUMBERS else float(value)
        for name, value in flat.items()
    }


def _score_arm(request: Request, data: SiteData, arm: Arm, referenced: bool) -> ArmScores:
    rows = judged_rows(data)
    parts = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        fused, branches = fused_predictions(request, arm, slice(start, start + BATCH))
        prediction = Prediction(fused, branches)
        reference = data.masks(chosen, stage="evaluate") if referenced else None
        parts.append(score_images(prediction, reference, threshold=arm.infusion.threshold))
    return join_scores(parts)
