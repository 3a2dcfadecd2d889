"""score: the dual score's numbers at a target (P2 2.3; method.md, "Exact in any split").

Steps: `embed` (a network comes, embeddings stay), `moments`, `cluster` (centroids come, sums and
counts go, again and again), `cells` (the final centroids come, histograms go). An image's
uncertainty, distance and cluster stay in the site's folder. Where the site or the study asks for a
minimum cohort, everything that goes back passes clients/cohort.py.
"""

import numpy as np
import torch

from clients.cohort import Reported, guarded_moments, guarded_step, merge_cells
from clients.embeddings import (
    agree,
    embed_pool,
    keep_measured,
    lattice_points,
    reported_path,
)
from clients.request import Request, Result
from common.objectives.collapse import effective_rank, mean_angle
from common.selection.assignment import lloyd_step
from common.selection.lattice import exponent_of
from common.selection.ranks import measure


def run(request: Request) -> Result:
    """Answer one step.

    Raises:
        InputError: If an earlier step or stage has not run here.
    """
    return {"embed": embed, "moments": moments, "cluster": cluster, "cells": cells}[request.step](
        request
    )


def cohort_of(request: Request) -> int:
    """Images that any number must stand for: the study's wish or the site's own, the larger."""
    return max(request.selection.settings.min_cohort, request.site.cohort)


def embed(request: Request) -> Result:
    """Embed the pool and its reconstructions; say how large they are and whether they collapsed."""
    embedded = embed_pool(request)
    z_ND = embedded.images
    exponent = 0
    if request.selection.metric == "euclidean":
        both = [z for z in (z_ND, embedded.reconstructions) if z is not None]
        exponent = max(exponent_of(z) for z in both)
    enough = len(z_ND) >= max(2, cohort_of(request))
    return Result(
        {
            "images": len(z_ND),
            "exponent": exponent,
            "mean_angle": mean_angle(z_ND) if enough else 0.0,
            "effective_rank": effective_rank(z_ND) if enough else 0.0,
        }
    )


def moments(request: Request) -> Result:
    """Sum and sum of squares of the pool's lattice points."""
    agree(request, int(request.weights["exponent"][0]))
    points, _ = lattice_points(request)
    own = guarded_moments(points, cohort_of(request))
    return Result(
        {"images": own.count},
        {"sum": torch.from_numpy(own.sums), "square": torch.from_numpy(own.squares)},
    )


def cluster(request: Request) -> Result:
    """Sums and counts of the images nearest to each centroid."""
    points, _ = lattice_points(request)
    centroids = request.weights["centroids"].numpy()
    cohort = cohort_of(request)
    if cohort > 1:  # one image is no cohort: the sums are whole
        path = reported_path(request)
        reported = Reported.read(path, len(points))
        own = guarded_step(points, centroids, cohort, reported)
        reported.write(path)
    else:
        own = lloyd_step(points, centroids)
    return Result({}, {"sums": torch.from_numpy(own.sums), "counts": torch.from_numpy(own.counts)})


def cells(request: Request) -> Result:
    """Measure every image against the final centroids, and count them by cell."""
    selection = request.selection
    points, partners = lattice_points(request)
    measured = measure(
        points,
        partners,
        request.weights["centroids"].numpy(),
        uncertainty=selection.settings.uncertainty,
        metric=selection.metric,
    )
    keep_measured(request.site, selection.arm, measured)
    merged = merge_cells(measured.histograms, cohort_of(request))
    uncertainty, distance = (torch.from_numpy(np.ascontiguousarray(row)) for row in merged)
    return Result({}, {"uncertainty": uncertainty, "distance": distance})
