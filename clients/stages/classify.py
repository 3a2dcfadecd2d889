"""classify: a classifier fine-tuned on what the site's experts have annotated; then judged (P2 3).

A round trains on the images of one arm's selection at one budget. Judging has two steps: a
classifier comes, and what it says of the test images stays in the site's folder; then one request
without weights, and the site answers with means, intervals, paired tests, counts and histograms.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clients.classification import summarise, table_columns, tabulate
from clients.classifiers import (
    features_of,
    label_codes,
    load_classifier,
    plain,
    probabilities_of,
    ready,
)
from clients.data.site import SiteData
from clients.predictions import keep_prediction, prediction_file
from clients.request import Request, Result
from clients.selected import annotated_rows
from clients.selection_page import write_selection_page
from clients.site import open_site
from clients.stages.evaluate import write_table
from clients.stages.source_classifier import cross_entropy
from clients.training import Loss, accumulated, make_optimizer, proximal_of, run_epochs
from common.classification import confusion, score_histogram
from common.config.arms import BOUND_ARMS
from common.config.selection import Classify
from common.models.branches import fresh, load_shared, returned_state
from common.models.classifier import Classifier
from common.plan import Plan
from common.plan.types import cell_key
from common.seeds import seed_of

SCORE_CELLS = 256
"""Cells of the histograms of which the pooled AUROC is taken."""


def run(request: Request) -> Result:
    """One round on the annotated images of the training's selection and budget.

    Fewer of them than a batch are one batch. Plain cross-entropy; the last epoch's weights go back,
    for a target has no label beyond its budget to choose an epoch by.

    Returns:
        The classifier, or the last layer where it alone learns, and the losses.

    Raises:
        InputError: If a label is none of the study's, or an annotated image is not the site's.
    """
    study, training, compute = request.study, request.training, request.study.compute
    settings = training.settings
    assert isinstance(settings, Classify)
    data = open_site(request.site, study)
    rows, codes_N = annotated_rows(request, data)
    network = fresh(study, training)
    assert isinstance(network, Classifier)
    load_shared(network, request.weights)
    ready(network, compute)
    learner: nn.Module = network
    if settings.trained == "last_layer":
        learner = network.last_layer
        loss = probe_loss(request, network, data, rows, codes_N, settings)
    else:
        loss = cross_entropy(request, network, data, codes_N, settings)
    progress = run_epochs(
        request,
        data,
        learner,
        rows,
        accumulated(loss, compute.micro_batch, learner, proximal_of(request, learner)),
        make_optimizer(learner.parameters(), settings),
    )
    plain(network)
    return Result(progress.metrics(), returned_state(network, training))


def probe_loss(
    request: Request,
    classifier: Classifier,
    data: SiteData,
    rows: NDArray[np.int64],
    codes_N: NDArray[np.int64],
    settings: Classify,
) -> Loss:
    """Linear probing: cross-entropy with a graph through the last layer alone.

    The features under it are read in evaluation mode, BatchNorm's statistics with them, so nothing
    there changes. Without augmentation they are computed once a round.

    Args:
        request: Its seed drives the augmentation.
        classifier: Put into evaluation mode, and to be left there.
        data: The site's.
        rows: Every row that a batch may hold.
        codes_N: (N,) the label of each of the site's rows.
        settings: Whether images are flipped and rotated.
    """
    compute = request.study.compute
    classifier.eval()
    classifier.requires_grad_(False)
    classifier.last_layer.requires_grad_(True)

    if settings.augmentation:
        return cross_entropy(request, classifier, data, codes_N, settings)
    order = np.sort(rows)
    features_ND = torch.from_numpy(features_of(classifier, data.images(order), compute))

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        features_BD = features_ND[np.searchsorted(order, chosen)].to(compute.device)
        targets_B = torch.from_numpy(codes_N[chosen]).to(compute.device)
        return F.cross_entropy(classifier.head(features_BD), targets_B)

    return loss


def evaluate(request: Request) -> Result:
    """Predict with one classifier, or (none named) score all."""
    return predict(request) if request.target else score(request)


def predict(request: Request) -> Result:
    """Write a classifier's probabilities (N, C) of the test images in the site's folder."""
    study = request.study
    cell = request.plan.cells[request.target]
    data = open_site(request.site, study)
    classifier = load_classifier(study, cell.architecture, request.weights)
    images_NHW = data.images(data.split.test)
    keep_prediction(request, probabilities_of(classifier, images_NHW, study.compute))
    return Result({})


def score(request: Request) -> Result:
    """Score and compare all classifiers; per-image numbers stay in `classification.csv`.

    Returns:
        The flat metrics, and for all of the site's test images together the histograms of scores
        (cells, 2, 256) and the confusion matrices (cells, C, C), in the plan's order.
    """
    study, plan = request.study, request.plan
    data = open_site(request.site, study)
    rows = data.split.test
    images = [data.rows[row].id for row in rows]
    labels = data.labels(rows, stage="evaluate")
    true_N = label_codes(labels, images, study.labels, request.site.name)
    clusters_N = data.clusters[rows]
    said = {key: np.load(prediction_file(request, key)) for key in plan.cells}
    flat = summarise(
        said,
        true_N,
        clusters_N,
        against=against(plan),
        samples=study.evaluate.bootstrap,
        seed=seed_of(study.seed, "bootstrap", request.site.name),
    )
    write_table(
        request.site.folder / "classification.csv",
        tabulate(plan.cells, said, true_N, clusters_N, images, study.labels),
        table_columns(study.labels),
    )
    write_selection_page(request)
    classes = len(study.labels)
    counts = {
        "scores": np.stack([score_histogram(p, true_N, SCORE_CELLS) for p in said.values()]),
        "confusion": np.stack([confusion(p.argmax(1), true_N, classes) for p in said.values()]),
    }
    return Result(flat, {name: torch.from_numpy(array) for name, array in counts.items()})


def against(plan: Plan) -> Mapping[str, str]:
    """Each classifier to the leading arm's at the same budget and architecture, if there is one."""
    lead = next((arm for arm in plan.selections if arm not in BOUND_ARMS), "")
    pairs = {
        key: cell_key(lead, cell.budget, cell.architecture)
        for key, cell in plan.cells.items()
        if cell.arm != lead
    }
    return {key: leading for key, leading in pairs.items() if leading in plan.cells}
