"""sphere: teacher on the image, student on its reconstruction."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages import sphere
from common.errors import InputError
from common.models.branches import fresh, load_shared
from common.models.sphere import SphereNetwork
from common.objectives.collapse import effective_rank, mean_angle
from common.seeds import deterministic
from tests.clients.classifying import equal, passed, request_of, site_of, study_of

ARMS = {"reconstruction": "dual", "augmentations": "sphere", "augmentation": "no_reconstruction"}
KEY = "dual/sphere"


def redraw(images_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A stand-in for a reconstruction that names its image: the negative."""
    return 255 - images_NHW


@pytest.fixture
def redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def reconstructions(site: Any, study: Any) -> NDArray[np.uint8]:
        data = open_site(site, study)
        return redraw(data.images(training_rows(data, "reconstruct")))

    monkeypatch.setattr(sphere, "reconstructions", reconstructions)


def asked(root: Path, arm: str = "dual", **changes: Any) -> Request:
    study = study_of(arms=["dual", *([arm] if arm != "dual" else [])], sphere=changes)
    return request_of(site_of(root), study, "sphere", f"{arm}/sphere")


def answer(request: Request) -> Result:
    with deterministic(0, 1):
        return passed(request, sphere.run(request), "train")


@pytest.mark.usefixtures("redrawn")
def test_a_round_and_the_same_again(tmp_path: Path) -> None:
    request = asked(tmp_path)
    first, again = answer(request), answer(request)
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert first.weights is not None
    moved = {
        name.partition(".")[0]
        for name, tensor in first.weights.items()
        if not torch.equal(tensor, request.weights[name])
    }
    assert moved == {"student", "predictor", "teacher"}
    assert first.metrics["examples"] == 18  # train and validation: the pool needs no label
    second = answer(request_of(request.site, request.study, "sphere", KEY, first.weights))
    assert not equal(second.weights, first.weights)


@pytest.mark.usefixtures("redrawn")
def test_the_figures_are_those_of_the_embeddings_that_go_back(tmp_path: Path) -> None:
    request = asked(tmp_path)
    found = answer(request)
    network = fresh(request.study, request.training)
    assert isinstance(network, SphereNetwork)
    assert found.weights is not None
    load_shared(network, found.weights)
    data = open_site(request.site, request.study)
    images = torch.from_numpy(data.images(training_rows(data, "sphere")))[:, None] / 255
    with torch.inference_mode():
        z = network.eval().embed(images).numpy()
    assert found.metrics["mean_angle"] == pytest.approx(mean_angle(z), abs=1e-4)
    assert found.metrics["effective_rank"] == pytest.approx(effective_rank(z), rel=1e-4)
    assert 0 < found.metrics["mean_angle"] < math.pi


@pytest.mark.usefixtures("redrawn")
@pytest.mark.parametrize("views", ARMS)
def test_what_the_two_see(tmp_path: Path, views: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(tmp_path, ARMS[views])
    data = open_site(request.site, request.study)
    rows = training_rows(data, "sphere")
    known = {data.images([row])[0].tobytes(): row for row in rows}
    negatives = {redraw(data.images([row])[0]).tobytes(): row for row in rows}
    true_forward = SphereNetwork.forward
    pairs = 0

    def row_of(image_1HW: Tensor, among: dict[bytes, int]) -> int | None:
        pixels = (image_1HW[0] * 255).round().to(torch.uint8).numpy()
        return among.get(pixels.tobytes())

    def forward(self: SphereNetwork, taught: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal pairs
        for image, other in zip(taught, seen, strict=True):
            pairs += 1
            if views == "reconstruction":
                assert row_of(image, known) == row_of(other, negatives) is not None
            else:
                assert (row_of(image, known) is not None) == (views == "augmentation")
                assert row_of(other, known) is None
                assert not torch.equal(image, other)
        return true_forward(self, taught, seen)

    monkeypatch.setattr(SphereNetwork, "forward", forward)
    answer(request)
    assert pairs == 2 * 16  # two epochs of four batches of four, from 18 images


@pytest.mark.usefixtures("redrawn")
def test_the_teacher_is_the_moving_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(tmp_path, epochs=1, ema_decay=0.9)
    true_follow = SphereNetwork.follow
    decays = []

    def follow(self: SphereNetwork, decay: float) -> None:
        before = copy.deepcopy(self.teacher.state_dict())
        true_follow(self, decay)
        decays.append(decay)
        name = "projector.0.weight"
        expected = 0.9 * before[name] + 0.1 * self.student.state_dict()[name]
        assert torch.allclose(self.teacher.state_dict()[name], expected)

    monkeypatch.setattr(SphereNetwork, "follow", follow)
    answer(request)
    assert decays == [0.9] * 4


@pytest.mark.usefixtures("redrawn")
def test_the_settings_choose_the_loss(tmp_path: Path) -> None:
    """At a rate of almost nothing the first loss is that of the same start: m scales it by m^2."""
    losses = {}
    tables: tuple[dict[str, Any], ...] = (
        {"m": 4.0}, {"m": 2.0}, {"form": "m*theta^2"}, {"form": "theta+m"}, {"normalise": False},
    )  # fmt: skip
    for place, changes in enumerate(tables):
        request = asked(tmp_path / str(place), epochs=1, learning_rate=1e-12, **changes)
        losses[place] = float(answer(request).metrics["loss"])
    assert losses[0] == pytest.approx(4 * losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(4 * losses[2], rel=1e-4)
    assert losses[3] > 16
    assert 0 < losses[4] < 4


def test_without_normalisation_angles_are_still_told(tmp_path: Path) -> None:
    found = answer(asked(tmp_path, "contrast")).metrics
    assert 0 < found["mean_angle"] < math.pi
    assert 0 < found["loss"] < 4


def test_without_reconstructions_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have not been redrawn"):
        answer(asked(tmp_path))


def test_no_label_is_read(tmp_path: Path) -> None:
    """Other labels, equal pixels: not a bit differs."""
    answers = []
    for place, labels in enumerate(({}, {f"i{n:02}": "benign" for n in range(24)})):
        site = site_of(tmp_path / str(place), labels=labels)
        study = study_of(arms=["dual", "sphere"])
        answers.append(answer(request_of(site, study, "sphere", "sphere/sphere")))
    assert equal(answers[0].weights, answers[1].weights)
    assert answers[0].metrics == answers[1].metrics
