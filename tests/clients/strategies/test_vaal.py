"""The one-shot VAAL: what looks unlike the annotated half is the other half."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import Normal, kl_divergence

from clients.strategies import vaal
from clients.strategies.vaal import Autoencoder, choose_vaal
from tests.clients.strategies.pools import pool_of


def two_kinds(count: int) -> NDArray[np.uint8]:
    """Dark images, then as many bright ones."""
    draw = np.random.default_rng(0)
    dark = draw.integers(0, 80, (count, 32, 32))
    bright = draw.integers(170, 250, (count, 32, 32))
    return np.concatenate([dark, bright]).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12])
def test_so_many_distinct_images_from_the_seed(count: int) -> None:
    pool = pool_of(images=two_kinds(6), vaal_epochs=1)
    found = choose_vaal(pool, count)
    assert found.shape == (count,)
    assert len(set(found.tolist())) == count
    torch.rand(1)
    assert np.array_equal(found, choose_vaal(pool, count))


def test_the_random_half_comes_first_and_depends_on_the_seed_alone() -> None:
    images = two_kinds(6)
    few, more = (choose_vaal(pool_of(images=images, vaal_epochs=e), 5) for e in (1, 3))
    assert np.array_equal(few[:3], more[:3])
    others = {
        tuple(choose_vaal(pool_of(images=images, vaal_epochs=1, seed=s), 5)[:3]) for s in range(3)
    }
    assert len(others) > 1


def test_the_least_annotated_looking_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vaal, "LEARNING_RATE", 2e-3)
    pool = pool_of(images=two_kinds(12), vaal_epochs=20)
    annotated = np.arange(8)  # dark ones only
    others = np.arange(8, 24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        looks = vaal._annotated_looks(pool, annotated, others)
    bright = others >= 12
    assert looks[bright].max() < looks[~bright].min()


def test_the_bound_is_the_reconstruction_error_and_the_divergence() -> None:
    torch.manual_seed(0)
    autoencoder, images = Autoencoder(), torch.rand(3, 1, 64, 64)
    torch.manual_seed(1)
    mean, bound = autoencoder(images)
    torch.manual_seed(1)
    mu, log_variance = autoencoder.encode(images)
    drawn = mu + torch.randn_like(mu) * torch.sqrt(log_variance.exp())
    error = ((autoencoder.decoder(drawn) - images) ** 2).flatten(1).sum(1)
    spread = torch.sqrt(log_variance.exp())
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    divergence = kl_divergence(Normal(mu, spread), prior).sum(1)
    assert torch.allclose(bound, (error + divergence).mean(), rtol=1e-5)
    assert torch.equal(mean, mu)
