"""Has an embedding collapsed? Two figures of a whole set of embeddings.

Shape legend: N images, D dimensions of the embedding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_rank", "mean_angle", "rank_of_moment"]

AT_MOST = 4096
"""Embeddings that pairs are taken of: 8 million pairs tell the mean to four digits."""
BLOCK = 512


def mean_angle(embeddings_ND: NDArray[Any]) -> float:
    """Mean angle over all pairs of different embeddings, in radians.

    About pi/2 where they fill the sphere; 0 where all have collapsed to one point. More than 4096
    embeddings are thinned evenly first.

    Args:
        embeddings_ND: (N, D) of any length, N >= 2.

    Returns:
        In [0, pi]; an embedding of length 0 counts as orthogonal to every other.
    """
    count = len(embeddings_ND)
    chosen = np.linspace(0, count - 1, min(count, AT_MOST)).astype(np.int64)
    z = np.asarray(embeddings_ND)[chosen].astype(np.float64)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    total = 0.0
    for start in range(0, len(z), BLOCK):
        part = z[start : start + BLOCK]
        angle = np.arccos(np.clip(part @ z[start:].T, -1, 1))
        # The block's own square holds each pair twice and each embedding with itself.
        own = angle[:, : len(part)]
        total += float(np.triu(own, 1).sum()) + float(angle[:, len(part) :].sum())
    return total / (len(z) * (len(z) - 1) / 2)


def effective_rank(embeddings_ND: NDArray[Any]) -> float:
    """Effective rank of the embeddings as a matrix (Roy and Vetterli 2007).

    The exponential of the entropy of the singular values, normalised to sum 1. The matrix is not
    centred: what has collapsed to one point has rank 1, and centring would leave its noise.

    Args:
        embeddings_ND: (N, D), N >= 1.

    Returns:
        In [1, min(N, D)]; 1 if all are zero.
    """
    z = np.asarray(embeddings_ND, dtype=np.float64)
    return rank_of_moment(z.T @ z if len(z) > z.shape[1] else z @ z.T)


def rank_of_moment(moment_DD: NDArray[np.float64]) -> float:
    """Effective rank from the sum of outer products, which is all that it needs to know.

    Args:
        moment_DD: (D, D), the sum of z z^T over the embeddings.
    """
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(moment_DD), 0, None))
    # Rounding leaves a zero eigenvalue at 1e-16 of the largest, its root at 1e-8 of it.
    singular = singular[singular > 1e-7 * singular.max(initial=0)]
    if not len(singular):
        return 1.0
    p = singular / singular.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
