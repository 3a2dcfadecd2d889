"""Strategies that score each image by itself: random, entropy, BALD, LfOSA.

One threshold cuts all sites' pools, so what is wanted of a strategy is a score of each image, the
same wherever the image lies, and no choice. Entropy and BALD are scikit-activeml's scores. Its
random sampling chooses; here the order of hashes does, which is the same for every split.
"""

import numpy as np
from numpy.typing import NDArray

from clients.strategies.pool import Pool

TINY = 1e-300
"""Probabilities are not clipped higher: 0 log 0 is 0, and the score is the formula's own."""


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
    from skactiveml.pool import uncertainty_scores

    scores: NDArray[np.float64] = uncertainty_scores(pool.probabilities, method="entropy")
    return -scores


def score_bald(pool: Pool) -> NDArray[np.float64]:
    """Minus the mutual information of prediction and weights, over Monte-Carlo dropout passes.

    BALD (Houlsby et al. 2011; Gal et al., ICML 2017): entropy of the mean prediction less the mean
    entropy. Large where the passes are sure and disagree. `select.dropout_samples` passes.

    Returns:
        (N,) in [-ln C, 0].
    """
    from skactiveml.pool import batch_bald

    passes_TNC = pool.dropout(pool.settings.dropout_samples)
    # A batch of one: no image's score depends on which others are chosen. It clips in place.
    (information,) = batch_bald(passes_TNC.copy(), batch_size=1, eps=TINY)
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
