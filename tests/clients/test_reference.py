"""A site's aggregates: of many patients or not at all, and without its test images."""

import numpy as np
import pytest

from clients.reference import _held_out, site_reference
from clients.site import open_site
from clients.site_list import read_sites
from common.bundle import files
from common.bundle.ensemble import load_ensemble
from common.bundle.reference import (
    describe,
    distance_of,
    feature_distance,
    grey_distance,
    read_reference,
    shrunk_covariance,
)
from common.config.study import Study
from tests.bundles import Carried


def opened(carried: Carried):  # type: ignore[no-untyped-def]
    study = Study.model_validate_json((carried.run / "study.json").read_text()).for_sites()
    (site,) = [s for s in read_sites(carried.run / "sites/sites.json") if s.name == "bo"]
    return open_site(site, study)


def test_means_are_those_of_the_training_images_alone(carried: Carried) -> None:
    data = opened(carried)
    reference = site_reference(data, load_ensemble(carried.bundle))
    assert reference is not None
    rows = np.concatenate([data.split.train, data.split.val])
    grey = np.mean([describe(square) for square in data.images(rows)], axis=0)
    np.testing.assert_allclose(reference.grey_mean_G, grey)
    assert reference.images == len(rows) == 18
    assert reference.patients == 6


def test_few_patients_give_nothing(carried: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(carried)
    monkeypatch.setattr(data, "clusters", np.minimum(data.clusters, 1))
    assert site_reference(data, load_ensemble(carried.bundle)) is None


def test_held_out_means_by_the_plain_way() -> None:
    rng = np.random.default_rng(0)
    grey, features = rng.normal(size=(9, 4)), rng.normal(size=(9, 5))
    clusters = np.array([3, 3, 5, 5, 7, 7, 9, 9, 9])
    patients = np.unique(clusters)
    near, far = _held_out(grey, features, clusters, patients)
    for row in range(9):
        others = clusters != clusters[row]  # four patients, four folds: one out at a time
        mean, sd = features[others].mean(axis=0), features[others].std(axis=0, ddof=1)
        assert np.exp(near[row]) == pytest.approx(
            grey_distance(grey[row], grey[others].mean(axis=0), shrunk_covariance(grey[others], 3))
        )
        assert np.exp(far[row]) == pytest.approx(feature_distance(features[row], mean, sd))


def test_the_bundle_carries_both_sites_and_knows_their_images(carried: Carried) -> None:
    reference = read_reference(carried.bundle, files.verify(carried.bundle))
    assert reference is not None
    assert set(reference.sites) == {"ada", "bo"}
    data = opened(carried)
    ensemble = load_ensemble(carried.bundle)
    import torch

    for square in data.images(data.split.test):
        with torch.inference_mode():
            said = ensemble.say(torch.from_numpy(square)[None, None].float() / 255)
        feature = said.features_BD[0].double().numpy()
        near = distance_of(describe(square), feature, 1.0, reference)
        assert "feature" not in near.flags
