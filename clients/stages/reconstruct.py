"""reconstruct: the pool redrawn in the source's style by the frozen model (P2 2.1, Stage II).

Three steps: a source describes its style, every site redraws, every site compares. Counts, means
and histograms leave; the reconstructions and every single image's numbers stay.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.classifiers import features_of, load_classifier
from clients.data.site import SiteData
from clients.reconstruction import (
    FOLDER,
    reconstructions,
    redraw_site,
    redrawn_rows,
    site_edges,
)
from clients.reconstruction_figures import (
    LPIPS_FILES,
    Numbers,
    Squares,
    contrast_kept,
    fidelity,
    grey_levels,
    lesion_contrast,
    lpips,
    mean_and_std,
    similarity,
)
from clients.request import Request, Result
from clients.site import open_site
from common.reconstruction import similarity_cells, wasserstein

CLASSIFIER = "classifier."
TABLE = "reconstructions.csv"


def run(request: Request) -> Result:
    """One of the stage's steps."""
    match request.step:
        case "style":
            return style(request)
        case "redraw":
            return Result({"images": redraw_site(request)})
        case "compare":
            return compare(request)
    raise AssertionError(request.step)


def style(request: Request) -> Result:
    """At a source: what its training images look like (P2 Table 1, first row).

    Returns:
        Mean features, grey levels, similarity to the mean.
    """
    data = open_site(request.site, request.study)
    images_NSS = data.images(data.split.train)
    features_ND = _features(request, request.weights, images_NSS)
    mean_D = features_ND.mean(0)
    near_N = similarity(features_ND, mean_D)
    pictures_NSS = site_edges(request.site, images_NSS).pictures(slice(None))
    return Result(
        {"images": len(images_NSS), **mean_and_std("similarity", near_N)},
        {
            "style.features": torch.from_numpy(mean_D.astype(np.float32)),
            "style.grey": torch.from_numpy(grey_levels(images_NSS, pictures_NSS)),
            "style.similarity": torch.from_numpy(similarity_cells(near_N)),
        },
    )


def compare(request: Request) -> Result:
    """What became of the images: nearer to the source's style, and how far from themselves.

    The lesions' masks are read here to judge, as in `evaluate`, and for nothing else.

    Returns:
        P2 Table 4's and Table 1's numbers; histograms before and after (Fig. 1).
    """
    study, site = request.study, request.site
    data = open_site(site, study)
    rows = redrawn_rows(data, site.role)
    images_NSS = data.images(rows)
    redrawn_NSS = np.asarray(reconstructions(site, study))
    pictures_NSS = site_edges(site, images_NSS).pictures(slice(None))
    source_D = request.weights["style.features"].numpy()
    source_grey = request.weights["style.grey"].numpy()

    classifier = {
        name.removeprefix(CLASSIFIER): tensor
        for name, tensor in request.weights.items()
        if name.startswith(CLASSIFIER)
    }
    of_images = fidelity(images_NSS, redrawn_NSS)
    if study.reconstruct.lpips_weights and "lpips" in site.weights:
        for net in LPIPS_FILES:
            found = lpips(images_NSS, redrawn_NSS, site.weights["lpips"], net)
            if found is not None:
                of_images[f"lpips_{net}"] = found
    metrics: dict[str, float | int] = {"images": len(rows)}
    for name, values_N in of_images.items():
        metrics |= mean_and_std(name, values_N)

    cells, greys = [], []
    for when, squares in (("before", images_NSS), ("after", redrawn_NSS)):
        near_N = similarity(_features(request, classifier, squares), source_D)
        grey = grey_levels(squares, pictures_NSS)
        of_images[f"similarity_{when}"] = near_N
        metrics[f"similarity_mean_{when}"] = float(near_N.mean())
        metrics[f"similarity_std_{when}"] = float(near_N.std())
        metrics[f"wasserstein_{when}"] = wasserstein(grey, source_grey)
        cells.append(similarity_cells(near_N))
        greys.append(grey)

    before_N, after_N = _contrasts(data, rows, images_NSS, redrawn_NSS, pictures_NSS)
    of_images |= {"contrast_before": before_N, "contrast_after": after_N}
    metrics |= contrast_kept(before_N, after_N)
    write_table(site.folder / FOLDER / TABLE, [data.rows[row].id for row in rows], of_images)
    return Result(
        metrics,
        {
            "similarity": torch.from_numpy(np.stack(cells)),
            "grey": torch.from_numpy(np.stack(greys)),
        },
    )


def _features(
    request: Request, state: Mapping[str, Tensor], images_NSS: Squares
) -> NDArray[np.float32]:
    study = request.study
    classifier = load_classifier(study, study.sphere.architecture, state)
    return features_of(classifier, images_NSS, study.compute)


def _contrasts(
    data: SiteData,
    rows: NDArray[np.int64],
    images_NSS: Squares,
    redrawn_NSS: Squares,
    pictures_NSS: NDArray[np.bool_],
) -> tuple[Numbers, Numbers]:
    """Lesion contrast before and after, NaN where no mask says where the lesion is."""
    outlined = np.flatnonzero(data.has_mask[rows])
    before_N, after_N = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    if len(outlined):
        masks_NSS = np.asarray(data.masks(rows[outlined], stage="evaluate").any(1), np.bool_)
        for values_N, squares in ((before_N, images_NSS), (after_N, redrawn_NSS)):
            values_N[outlined] = lesion_contrast(
                squares[outlined], masks_NSS, pictures_NSS[outlined]
            )
    return before_N, after_N


def write_table(path: Path, ids: Sequence[str], of_images: Mapping[str, Numbers]) -> None:
    """Every image's numbers, for the site itself."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *of_images])
        for place, name in enumerate(ids):
            cells = (values_N[place] for values_N in of_images.values())
            writer.writerow([name, *("" if np.isnan(x) else f"{x:.6g}" for x in cells)])
