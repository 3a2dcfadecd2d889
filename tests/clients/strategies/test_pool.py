"""A classifier is run over a pool once; Monte-Carlo dropout is drawn from the pool's seed."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.strategies.pool import DROPOUT, Pool, read_pool
from common.config.selection import Select
from common.models.classifier import Classifier


class Network(Classifier):
    """Features of 5 after BatchNorm and maybe dropout, then the last layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(5, 2)

    def features(self, images_BCHW: Tensor) -> Tensor:
        maximum: Tensor = self.convolution(images_BCHW).amax((2, 3))
        dropped: Tensor = self.dropout(self.norm(maximum))
        return dropped

    def head(self, features_BD: Tensor) -> Tensor:
        logits: Tensor = self.last(features_BD)
        return logits


def images_of(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8), dtype=np.uint8)


def pool_from(network: Network, count: int = 70, seed: int = 5) -> Pool:
    return read_pool(network, images_of(count), seed=seed, settings=Select())


def test_a_pool_knows_no_label() -> None:
    names = {field.name for field in dataclasses.fields(Pool)}
    assert names == {
        "images", "features", "logits", "probabilities", "dropout", "seed", "settings",
    }  # fmt: skip


def test_what_the_classifier_says() -> None:
    network = Network()
    pool = pool_from(network)
    network.eval()
    for place in (0, 63, 64, 69):
        image = torch.from_numpy(pool.images[place])[None, None] / 255
        with torch.no_grad():
            feature = network.norm(network.convolution(image).amax((2, 3)))
            logits = network.last(feature)
        assert pool.features[place] == pytest.approx(feature[0].numpy(), abs=1e-5)
        assert pool.logits[place] == pytest.approx(logits[0].numpy(), abs=1e-5)
        assert pool.probabilities[place] == pytest.approx(logits[0].softmax(0).numpy(), abs=1e-5)
    assert [str(a.dtype) for a in (pool.features, pool.logits)] == ["float32", "float64"]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_passes_come_from_the_seed(rate: float) -> None:
    network = Network(rate)
    pool = pool_from(network)
    passes = pool.dropout(4)
    assert passes.shape == (4, 70, 2)
    assert passes.sum(axis=2) == pytest.approx(np.ones((4, 70)))
    assert not np.array_equal(passes[0], passes[1])
    assert np.array_equal(passes, pool.dropout(4))
    assert np.array_equal(passes[:2], pool.dropout(2))
    assert not np.array_equal(passes, pool_from(network, seed=6).dropout(4))
    assert not any(part.training for part in network.modules())


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_is_where_the_network_has_it_else_before_the_last_layer(rate: float) -> None:
    """Against the mean and spread that inverted dropout gives each logit difference."""
    network = Network(rate)
    pool = pool_from(network, count=3)
    passes = pool.dropout(4000)
    margins = np.log(passes[:, :, 1] / passes[:, :, 0])
    weight = (network.last.weight[1] - network.last.weight[0]).detach().double().numpy()
    bias = float(network.last.bias[1] - network.last.bias[0])
    drop = rate or DROPOUT
    terms = pool.features * weight
    assert margins.mean(axis=0) == pytest.approx(terms.sum(axis=1) + bias, abs=0.05)
    variance = (terms**2).sum(axis=1) * drop / (1 - drop)
    assert margins.var(axis=0) == pytest.approx(variance, rel=0.1)


def test_only_dropout_leaves_eval_mode() -> None:
    """BatchNorm's running statistics stay as they are."""
    network = Network(0.3)
    before = network.norm.running_mean.clone()  # type: ignore[union-attr]
    pool_from(network).dropout(2)
    assert torch.equal(before, network.norm.running_mean)  # type: ignore[arg-type]


def test_a_real_classifier() -> None:
    classifier = Classifier("resnet10t", 2, 32)
    pool = read_pool(classifier, images_of(5).repeat(4, 1).repeat(4, 2), seed=0, settings=Select())
    assert pool.features.shape == (5, classifier.width)
    assert pool.dropout(3).shape == (3, 5, 2)
