"""Embeddings stay at the site, are made once for equal weights and pixels, and anew for others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.embeddings import agree, embed_pool, lattice_points, load_embedded, pool_digests
from clients.request import Request
from common.errors import InputError
from common.models.branches import fresh, shared_state
from common.plan import make_plan
from tests.server.stages.pools import make_site, redrawn, study_of


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    redrawn(monkeypatch)
    study = study_of(arms=["dual", "contrast"]).for_sites()
    plan = make_plan(study)
    network = fresh(study, plan.trainings["dual/sphere"])
    return Request(
        make_site(tmp_path, "bo", 12), study, plan, "score", "dual", weights=shared_state(network)
    )


def test_made_once_and_anew_for_other_weights(request_: Request) -> None:
    first = embed_pool(request_)
    assert first.reconstructions is not None
    np.testing.assert_allclose(np.linalg.norm(first.images, axis=1), 1, atol=1e-6)
    folder = request_.site.folder / "embeddings" / "dual/sphere"
    made = (folder / "images.npy").stat().st_mtime_ns
    before = first.images.copy()
    embed_pool(request_)
    assert (folder / "images.npy").stat().st_mtime_ns == made
    other = {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor
        for name, tensor in request_.weights.items()
    }
    assert (embed_pool(replace(request_, weights=other)).images != before).any()
    assert not list(folder.glob("*.partial"))


def test_where_nothing_has_been_embedded_or_agreed_it_says_so(request_: Request) -> None:
    with pytest.raises(InputError, match="not been embedded"):
        load_embedded(request_)
    embed_pool(request_)
    with pytest.raises(InputError, match="no exponent"):
        lattice_points(request_)
    agree(request_, 0)
    points, partners = lattice_points(request_)
    assert partners is not None
    assert (points == np.rint(points)).all()
    assert np.abs(points).max() <= 32768


def test_without_the_sphere_lengths_stay(request_: Request) -> None:
    training = request_.plan.trainings["contrast/sphere"]
    weights = shared_state(fresh(request_.study, training))
    embedded = embed_pool(replace(request_, target="contrast", weights=weights))
    assert np.linalg.norm(embedded.images, axis=1).std() > 1e-4


def test_equal_pixels_have_equal_digests(request_: Request, tmp_path: Path) -> None:
    other = replace(request_, site=make_site(tmp_path, "cy", 12))
    mine, theirs = set(pool_digests(request_)), set(pool_digests(other))
    assert mine & theirs
    assert theirs - mine
