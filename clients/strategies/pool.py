"""What a strategy sees of a site: its unlabelled images, and what a classifier says of them.

Legend: N = images of the pool, S = side in pixels, D = features, C = classes, T = passes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.selection import Select
from common.models.classifier import Classifier
from common.seeds import deterministic, seed_of

DROPOUT = 0.5
"""Rate before the last layer of a network that has no dropout of its own (Gal and Ghahramani)."""
BATCH = 64


@dataclass(frozen=True)
class Pool:
    """A site's unlabelled images, seen through the source's classifier. It holds no label.

    Attributes:
        images: (N, S, S) uint8, grey.
        features: (N, D) float32, what the classifier's last layer gets.
        logits: (N, C) float64.
        probabilities: (N, C) float64, their softmax.
        dropout: Called with T it gives (T, N, C) float64 probabilities of T Monte-Carlo dropout
            passes; nothing is computed before. Equal calls give equal numbers.
        seed: Of everything that a strategy draws.
        settings: The study's [select].
    """

    images: NDArray[np.uint8]
    features: NDArray[np.float32]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    dropout: Callable[[int], NDArray[np.float64]]
    seed: int
    settings: Select

    def __len__(self) -> int:
        return len(self.images)

    def seed_for(self, name: str) -> int:
        """A seed in [0, 2^32), as numpy and scikit-learn want it, for one use of the pool."""
        return seed_of(self.seed, name) % 2**32


def read_pool(
    classifier: Classifier,
    images: NDArray[np.uint8],
    *,
    seed: int,
    settings: Select,
    threads: int = 1,
    device: str = "cpu",
) -> Pool:
    """Run a classifier over a pool.

    Args:
        classifier: The source's; it is put into eval mode.
        images: (N, S, S), N at least 1.
        seed: Of everything that a strategy draws.
        settings: The study's [select].
        threads: CPU threads of one operation.
        device: Where the classifier is.
    """
    classifier.eval()
    with deterministic(seed, threads), torch.inference_mode():
        features_ND = _features(classifier, images, device)
        logits_NC = _logits(classifier, features_ND)

    def dropout(samples: int) -> NDArray[np.float64]:
        layers = _dropouts(classifier)
        with deterministic(seed_of(seed, "dropout"), threads), torch.inference_mode():
            found = []
            for _ in range(samples):
                # Without dropout of its own, what comes before the last layer need not run again.
                hidden_ND = (
                    _features_dropped(classifier, layers, images, device)
                    if layers
                    else F.dropout(features_ND, DROPOUT)
                )
                found.append(_logits(classifier, hidden_ND).softmax(dim=1).numpy())
        return np.stack(found)

    return Pool(
        images=images,
        features=features_ND.cpu().numpy(),
        logits=logits_NC.numpy(),
        probabilities=logits_NC.softmax(dim=1).numpy(),
        dropout=dropout,
        seed=seed,
        settings=settings,
    )


def _features(classifier: Classifier, images: NDArray[np.uint8], device: str) -> Tensor:
    parts = []
    for start in range(0, len(images), BATCH):
        grey = torch.from_numpy(images[start : start + BATCH]).to(device)
        parts.append(classifier.features(grey[:, None].float() / 255).float())
    return torch.cat(parts)


def _features_dropped(
    classifier: Classifier, layers: list[nn.Module], images: NDArray[np.uint8], device: str
) -> Tensor:
    """One pass with the network's own dropout on, all else in eval mode."""
    for layer in layers:
        layer.train()
    try:
        return _features(classifier, images, device)
    finally:
        for layer in layers:
            layer.eval()


def _dropouts(classifier: Classifier) -> list[nn.Module]:
    kinds = nn.modules.dropout._DropoutNd
    return [part for part in classifier.modules() if isinstance(part, kinds) and part.p > 0]


def _logits(classifier: Classifier, features_ND: Tensor) -> Tensor:
    return classifier.head(features_ND).double().cpu()
