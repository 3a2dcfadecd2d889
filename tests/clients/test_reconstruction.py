"""Redrawing a pool: the same bytes whatever happens on the way, and never of other images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import reconstruction
from clients.edges import find_edges
from clients.reconstruction import (
    image_noise,
    local_settings,
    reconstructions,
    redraw_pool,
    redraw_site,
    redrawn_rows,
)
from clients.request import Request
from clients.site import open_site, training_rows
from common.config.selection import Diffusion, Reconstruct
from common.config.stages import Compute
from common.errors import InputError
from common.models.diffusion import DiffusionModel
from tests.clients.redrawing import (
    DIFFUSION,
    SIDE,
    make_site,
    picture,
    request_of,
    smallest,
    start,
    study_of,
)


class Killed(Exception):  # noqa: N818 - what happened, not a fault
    """The process was killed."""


@pytest.fixture(autouse=True)
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest(monkeypatch)


def redraw(root: Path, name: str = "bo", **changes: Any) -> Request:
    study = study_of(**changes)
    return request_of(
        make_site(root, name), study, "reconstruct", step="redraw", weights=start(study, DIFFUSION)
    )


def pool(count: int) -> np.ndarray:
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    for place in range(count):
        images[place, :24] = picture(place, "x")[0]
    return images


def drawn(folder: Path, images: np.ndarray, **settings: Any) -> np.ndarray:
    torch.manual_seed(0)
    model = DiffusionModel(Diffusion(preset="tiny"), SIDE).eval()
    work = redraw_pool(
        folder, model, images, find_edges(images), Reconstruct(steps=2, batch=3, **settings),
        Compute(), seed=1, weights="w",
    )  # fmt: skip
    found: np.ndarray = np.load(work.file)
    return found


def test_a_target_redraws_its_pool_and_a_source_its_test_images(tmp_path: Path) -> None:
    for name, rows in (("bo", 14), ("ada", 6)):
        request = redraw(tmp_path, name)
        assert redraw_site(request) == rows
        found = reconstructions(request.site, request.study)
        data = open_site(request.site, request.study)
        assert found.shape == (rows, SIDE, SIDE)
        assert found.dtype == np.uint8
        if name == "bo":
            np.testing.assert_array_equal(
                redrawn_rows(data, "target"), training_rows(data, "reconstruct")
            )
        assert (found[:, 24:] == 0).all()  # padding stays what it is
        assert found[:, :24].std() > 1


def test_a_kill_at_any_batch_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = redraw(tmp_path / "whole")
    redraw_site(whole)
    expected = reconstructions(whole.site, whole.study).copy()
    plain = reconstruction.draw
    request = redraw(tmp_path / "cut")
    for kill_at in (0, 1, 1, 0):  # batches that get through before the next kill
        left = [kill_at]

        def mortal(*given: Any, left: list[int] = left) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return plain(*given)

        monkeypatch.setattr(reconstruction, "draw", mortal)
        with pytest.raises(Killed):
            redraw_site(request)
        with pytest.raises(InputError, match="have not been redrawn"):
            reconstructions(request.site, request.study)
    (record,) = (request.site.folder / "reconstructions").glob("*.json")
    assert json.loads(record.read_text()) == {"done": 8, "of": 14}
    asked = []

    def counted(*given: Any) -> Any:
        asked.append(len(given[1]))
        return plain(*given)

    monkeypatch.setattr(reconstruction, "draw", counted)
    redraw_site(request)
    assert asked == [4, 2]
    np.testing.assert_array_equal(reconstructions(request.site, request.study), expected)
    redraw_site(request)
    assert len(asked) == 2  # nothing is drawn twice


def test_other_weights_settings_or_pixels_are_another_file(tmp_path: Path) -> None:
    images = pool(4)
    drawn(tmp_path, images)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    drawn(tmp_path, images)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    drawn(tmp_path, images, guidance=2.0)
    changed = images.copy()
    changed[0, 0, 0] ^= 1
    drawn(tmp_path, changed)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    drawn(tmp_path, images, lpips_weights="anywhere")  # judges, draws nothing
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_an_images_noise_is_its_own(tmp_path: Path) -> None:
    images, shape = pool(5), (4, 16, 16)
    together = image_noise(images, shape, 7)
    torch.testing.assert_close(together[3:4], image_noise(images[3:4], shape, 7))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[:1], image_noise(images[:1], shape, 8))
    # So an image is redrawn alike wherever it stands, up to the last bits of a batched product.
    forth, back = drawn(tmp_path / "a", images), drawn(tmp_path / "b", images[::-1].copy())
    assert np.abs(forth.astype(int) - back[::-1].astype(int)).max() <= 1


def test_changed_images_are_not_taken_for_the_old_ones(tmp_path: Path) -> None:
    request = redraw(tmp_path)
    with pytest.raises(InputError, match="have not been redrawn"):
        reconstructions(request.site, request.study)
    redraw_site(request)
    latest = request.site.folder / "reconstructions" / "latest.json"
    record = json.loads(latest.read_text())
    latest.write_text(json.dumps({**record, "pixels": "0" * 64}))
    with pytest.raises(InputError, match="have changed"):
        reconstructions(request.site, request.study)


def test_published_weights_are_looked_for_at_the_site_alone(tmp_path: Path) -> None:
    study = study_of(
        diffusion={"preset": "stable-diffusion", "weights": "/server/sd", "text": "clip",
                   "text_weights": "/server/clip"}
    ).for_sites()  # fmt: skip
    site = make_site(tmp_path, "bo")
    found = local_settings(request_of(site, study, "reconstruct"))
    assert (found.weights, found.text_weights) == ("", "")
    own = site.model_copy(update={"weights": {"diffusion": Path("/own/sd"), "text": Path("/t")}})
    found = local_settings(request_of(own, study, "reconstruct"))
    assert (found.weights, found.text_weights) == ("/own/sd", "/t")
