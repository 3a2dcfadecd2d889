"""VAAL: a variational autoencoder, and a discriminator that tells annotated from not.

Legend: B = batch, L = latent, S = side of the autoencoder's squares.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clients.strategies.pool import Pool
from common.seeds import deterministic, seed_of

SIDE = 64
LATENT = 32
BATCH = 64
LEARNING_RATE = 5e-4
"""As in the authors' code, like the latent of 32 and the weights of 1 on all terms."""


def choose_vaal(pool: Pool, count: int) -> NDArray[np.int64]:
    """Variational adversarial active learning (Sinha et al., ICCV 2019), in one shot.

    VAAL needs images that are annotated already, and at a new target there are none. So a random
    half of the quota (the larger one if it is odd) plays them and comes first; the autoencoder and
    the discriminator are then trained on the whole pool, and the images that look least annotated
    to the discriminator are the other half. It uses images only: no label, no classifier.
    `select.vaal_epochs` passes over the pool, squares of 64 px.

    Args:
        pool: The site's images.
        count: How many, at most N.

    Returns:
        (count,) distinct indices in rank order.
    """
    order = np.random.default_rng(pool.seed_for("vaal")).permutation(len(pool))
    annotated, others = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    wanted = count - len(annotated)
    if not wanted:
        return annotated
    with deterministic(seed_of(pool.seed, "vaal"), torch.get_num_threads()):
        looks = _annotated_looks(pool, annotated, others)
    by_looks = others[np.argsort(looks, kind="stable")]
    return np.concatenate([annotated, by_looks[:wanted]])


class Autoencoder(nn.Module):
    """A small convolutional variational autoencoder of S x S grey images."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64, 64)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            down += [nn.Conv2d(inner, outer, 4, 2, 1), nn.ReLU()]
            up = [nn.ConvTranspose2d(outer, inner, 4, 2, 1), nn.ReLU(), *up]
        self.grid = (widths[-1], SIDE // 16, SIDE // 16)
        flat = int(np.prod(self.grid))
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, 2 * LATENT))
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, flat), nn.ReLU(), nn.Unflatten(1, self.grid), *up[:-1]
        )

    def encode(self, images_B1SS: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances of the latent, (B, L) each."""
        mean, log_variance = self.encoder(images_B1SS).chunk(2, dim=1)
        return mean, log_variance

    def forward(self, images_B1SS: Tensor) -> tuple[Tensor, Tensor]:
        """The latent's means (B, L), and the negative evidence bound: a scalar, nats an image."""
        mean, log_variance = self.encode(images_B1SS)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        error = (self.decoder(drawn) - images_B1SS).square().sum(dim=(1, 2, 3))
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return mean, (error + divergence).mean()


def _annotated_looks(
    pool: Pool, annotated: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The discriminator's logit for each of `others`; small: unlike the annotated."""
    squares_N1SS = _squares(pool.images)
    autoencoder = Autoencoder()
    discriminator = nn.Sequential(
        nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1)
    )
    encoding = torch.optim.Adam(autoencoder.parameters(), lr=LEARNING_RATE)
    telling = torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE)
    draw = np.random.default_rng(pool.seed_for("vaal batches"))
    steps = pool.settings.vaal_epochs * max(1, len(pool) // BATCH)
    for _ in range(steps):
        known, unknown = (
            squares_N1SS[draw.choice(rows, min(BATCH // 2, len(rows)), replace=False)]
            for rows in (annotated, others)
        )
        known_BL, known_bound = autoencoder(known)
        unknown_BL, unknown_bound = autoencoder(unknown)
        # The encoder wants all to look annotated; the discriminator wants to tell.
        fooled = _verdict(discriminator, known_BL, 1) + _verdict(discriminator, unknown_BL, 1)
        encoding.zero_grad()
        torch.autograd.backward(known_bound + unknown_bound + fooled)
        encoding.step()
        known_BL, unknown_BL = known_BL.detach(), unknown_BL.detach()
        told = _verdict(discriminator, known_BL, 1) + _verdict(discriminator, unknown_BL, 0)
        telling.zero_grad()
        torch.autograd.backward(told)
        telling.step()
    with torch.inference_mode():
        means = [autoencoder.encode(part)[0] for part in torch.split(squares_N1SS[others], BATCH)]
        looks: NDArray[np.float64] = discriminator(torch.cat(means))[:, 0].double().numpy()
    return looks


def _verdict(discriminator: nn.Module, latent_BL: Tensor, truth: int) -> Tensor:
    logits = discriminator(latent_BL)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


def _squares(images: NDArray[np.uint8]) -> Tensor:
    """(N, 1, S, S) in [0, 1]."""
    return torch.cat(
        [
            F.interpolate(
                torch.from_numpy(images[start : start + BATCH])[:, None].float() / 255,
                size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False,
            )
            for start in range(0, len(images), BATCH)
        ]
    )  # fmt: skip
