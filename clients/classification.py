"""Scoring classifiers on one site's test images: pure functions over arrays.

Only the flat metrics may leave the site; the per-image table stays.

Shape legend: N images, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.classification import bootstrap
from common.plan import Cell
from common.statistics import paired_wilcoxon

Probabilities = Mapping[str, NDArray[Any]]
"""A classifier's key to its (N, C)."""


def summarise(
    said: Probabilities,
    true_N: NDArray[np.int64],
    clusters_N: NDArray[np.int64],
    *,
    against: Mapping[str, str],
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, float | int]:
    """The flat metrics of a site (docs/formats.md, "classify").

    Accuracy, balanced accuracy and AUROC of every classifier, with intervals over patients, and
    `versus`: the leading arm's classifier minus this one in correctness, tested over patients. A
    number that is undefined (the interval of a single patient, the AUROC of a single class) is
    left out.

    Args:
        said: What each classifier says of the test images.
        true_N: (N,) their classes.
        clusters_N: (N,), the statistics unit of each.
        against: A classifier's key to the leading arm's at its budget and architecture.
        samples: Bootstrap draws.
        seed: Of the draws.
    """
    found = bootstrap(list(said.values()), true_N, clusters_N, samples=samples, seed=seed)
    right = {key: (p.argmax(axis=1) == true_N).astype(np.float64) for key, p in said.items()}
    flat: dict[str, float | int] = {}
    for key, estimates in zip(said, found, strict=True):
        for metric, estimate in estimates.items():
            name = f"{key}.{metric}"
            if math.isnan(estimate.mean):
                continue
            flat |= {
                f"{name}.mean": estimate.mean,
                f"{name}.ci_low": estimate.ci_low,
                f"{name}.ci_high": estimate.ci_high,
                f"{name}.variance": estimate.variance,
                f"{name}.n_images": estimate.n_images,
                f"{name}.n_patients": estimate.n_clusters,
            }
        if key in against:
            paired = paired_wilcoxon(right[against[key]], right[key], clusters_N)
            flat |= {
                f"{key}.versus.difference": paired.difference,
                f"{key}.versus.p": paired.p,
                f"{key}.versus.z": paired.z,
                f"{key}.versus.n": paired.n,
            }
    return {name: value for name, value in flat.items() if math.isfinite(value)}


def table_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """Columns of the per-image table."""
    return (
        "image", "cluster", "label", "arm", "budget", "architecture", "said",
        *(f"p_{label}" for label in labels),
    )  # fmt: skip


def tabulate(
    cells: Mapping[str, Cell],
    said: Probabilities,
    true_N: NDArray[np.int64],
    clusters_N: NDArray[np.int64],
    images: Sequence[str],
    labels: Sequence[str],
) -> list[dict[str, str | float]]:
    """One row a classifier and image, for a CSV in the site's own folder."""
    rows: list[dict[str, str | float]] = []
    for key, cell in cells.items():
        for n, image in enumerate(images):
            p_C = said[key][n]
            row: dict[str, str | float] = {
                "image": image,
                "cluster": int(clusters_N[n]),
                "label": labels[true_N[n]],
                "arm": cell.arm,
                "budget": cell.budget,
                "architecture": cell.architecture,
                "said": labels[int(p_C.argmax())],
            }
            row |= {f"p_{name}": round(float(p), 6) for name, p in zip(labels, p_C, strict=True)}
            rows.append(row)
    return rows
