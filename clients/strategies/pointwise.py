"""Strategies that score each image by itself: random, entropy, BALD, LfOSA."""

import numpy as np
from numpy.typing import NDArray

from clients.strategies.pool import Pool

TINY = 1e-300
"""Below any probability that a double softmax gives; keeps 0 log 0 at 0."""


def score_random(pool: Pool) -> NDArray[np.float64]:
    """The same for all, so that the order of hashes, by which ties are broken, decides.

    Returns:
        (N,) zeros.
    """
    return np.zeros(len(pool))


def score_entropy(pool: Pool) -> NDArray[np.float64]:
    """Minus the entropy of the source classifier's prediction (max-entropy sampling).

    Returns:
        (N,) in [-ln C, 0]; the most uncertain image is first.
    """
    return -entropy(pool.probabilities)


def score_bald(pool: Pool) -> NDArray[np.float64]:
    """Minus the mutual information of prediction and weights, over Monte-Carlo dropout passes.

    BALD (Houlsby et al. 2011; Gal et al., ICML 2017): entropy of the mean prediction less the mean
    entropy. Large where the passes are sure and disagree. `select.dropout_samples` passes.

    Returns:
        (N,) in [-ln C, 0].
    """
    passes_TNC = pool.dropout(pool.settings.dropout_samples)
    information = entropy(passes_TNC.mean(axis=0)) - entropy(passes_TNC).mean(axis=0)
    # Rounding alone can bring equal passes below 0.
    scores: NDArray[np.float64] = -np.maximum(information, 0.0)
    return scores


def score_lfosa(pool: Pool) -> NDArray[np.float64]:
    """Minus the probability of being known, from the maximum activation values (LfOSA).

    Ning et al., CVPR 2022, sample for known classes in an open set: for each predicted class a
    Gaussian mixture of two components is fitted to its images' largest logits, and the images that
    belong most surely to the component with the larger mean are taken first. Here every image is
    of a known class, so it picks the confident ones: the opposite of uncertainty sampling. That
    is what P2 compares with, and what this does.

    A predicted class with fewer than two distinct activations tells nothing; its images get .5.

    Returns:
        (N,) in [-1, 0].
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    activations = pool.logits.max(axis=1)
    predicted = pool.logits.argmax(axis=1)
    known = np.full(len(pool), 0.5)
    with threadpool_limits(1):
        for label in np.unique(predicted):
            mine = predicted == label
            values = activations[mine][:, None]
            if len(np.unique(values)) < 2:
                continue
            # Scaled, so that the floor of the variances means the same for every network.
            scaled = (values - values.mean()) / values.std()
            mixture = GaussianMixture(
                n_components=2, reg_covar=1e-4, random_state=pool.seed_for(f"lfosa {label}")
            )
            posterior = mixture.fit(scaled).predict_proba(scaled)
            known[mine] = posterior[:, mixture.means_[:, 0].argmax()]
    return -known


def entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats over the last axis: (..., C) -> (...)."""
    p = np.asarray(probabilities, dtype=np.float64)
    result: NDArray[np.float64] = -(p * np.log(np.maximum(p, TINY))).sum(axis=-1)
    return result
