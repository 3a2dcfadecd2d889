"""diffusion: what is trained, what is averaged, and that nothing memorised leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clients import reconstruction
from clients.edges import Edges, find_edges
from clients.memorisation import ReleaseRefused, correlation_vector, refuse_above
from clients.request import Request, Result
from clients.site import open_site
from clients.stages import diffusion
from clients.stages.diffusion import Average, Draws, denoising_loss, figures_of
from clients.training import draws, to_unit
from common.config.selection import Diffusion, Reconstruct
from common.config.stages import Compute
from common.errors import InputError
from common.models.branches import load_shared
from common.models.diffusion import DiffusionModel
from common.models.diffusion_schedule import training_noise
from common.seeds import deterministic
from scripts.bench.reconstruct import phantom
from tests.clients.classifying import equal, passed
from tests.clients.redrawing import (
    DIFFUSION,
    SIDE,
    make_site,
    request_of,
    smallest,
    start,
    study_of,
    training_request,
)


@pytest.fixture(autouse=True)
def _smallest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "slow" not in request.keywords:  # the control needs room to memorise
        smallest(monkeypatch)


def answer(request: Request) -> Result:
    with deterministic(0, 1):
        return passed(request, diffusion.run(request), "train")


def test_a_round_and_the_same_again(tmp_path: Path) -> None:
    study = study_of()
    request = training_request(tmp_path, study)
    first, again = answer(request), answer(request)
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert not equal(first.weights, request.weights)
    assert first.metrics["examples"] == 10  # train rows only
    assert first.metrics["memorisation_samples"] == 8
    record = json.loads((request.site.folder / "memorisation.json").read_text())
    assert record["released"] is True
    assert record["held_out"] == 10
    assert record["features"] == first.metrics["memorisation_features"]


def test_a_forward_pass_has_a_size_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = diffusion.accumulated  # type: ignore[attr-defined]

    def spied(loss, micro_batch, network, anchor):  # type: ignore[no-untyped-def]
        seen.append(micro_batch)
        return plain(loss, micro_batch, network, anchor)

    monkeypatch.setattr(diffusion, "accumulated", spied)
    for own, compute in ((2, None), (None, 4), (2, 4)):
        study = study_of(
            diffusion={"batch": 4, "micro_batch": own}, compute={"micro_batch": compute}
        )
        answer(training_request(tmp_path / f"{own} {compute}", study))
    assert seen == [2, 4, 2]


def test_it_learns_to_denoise(tmp_path: Path) -> None:
    request = training_request(tmp_path, study_of(diffusion={"epochs": 30, "learning_rate": 5e-3}))
    found = answer(request).metrics
    assert found["loss"] < 0.7 * found["loss_first"]


def test_the_loss_is_the_papers_for_epsilon(tmp_path: Path) -> None:
    """P2 Eq. 1 in plain words, on the same draws."""
    study = study_of(diffusion={"prediction": "epsilon", "hint_dropout": 0.5})
    request = training_request(tmp_path, study)
    data = open_site(request.site, study)
    rows = data.split.train
    network = DiffusionModel(study.diffusion, SIDE)
    load_shared(network, request.weights)
    edges = find_edges(data.images(rows))
    chosen = rows[[4, 1, 7]]
    found = denoising_loss(request, network, data, rows, edges)(chosen)

    noise = Draws.of(3, network.shape, 1000, study.diffusion, draws(request, "noise"), "cpu")
    alphas = training_noise(study.diffusion).alphas_cumprod
    total = 0.0
    for place in range(3):
        image = torch.from_numpy(data.images(chosen[place : place + 1])).unsqueeze(1) / 255
        clean, epsilon = network.encode(image), noise.noise[place : place + 1]
        alpha = alphas[noise.timesteps[place]]
        hint = torch.from_numpy(edges.hints(np.array([[4, 1, 7][place]])))
        one = slice(place, place + 1)
        said = network(
            alpha.sqrt() * clean + (1 - alpha).sqrt() * epsilon, noise.timesteps[one], hint,
            noise.keep_hint[one], noise.keep_prompt[one],
        )  # fmt: skip
        total += float((said - epsilon).square().mean().detach())
    assert float(found.detach()) == pytest.approx(total / 3, rel=1e-4)


def test_the_average_is_young_at_first() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = Average(network, 0.9)
    expected = 0.0
    for step in range(1, 200):
        torch.nn.init.constant_(network.weight, float(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update(network)
    average.put_into(network)
    assert float(network.weight) == pytest.approx(expected, rel=1e-5)


def test_dropout_hides_its_share() -> None:
    settings = Diffusion(hint_dropout=0.25, prompt_dropout=1.0)
    generator = torch.Generator().manual_seed(0)
    found = Draws.of(4000, (1, 1, 1), 1000, settings, generator, "cpu")
    assert float(found.keep_hint.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert not found.keep_prompt.any()
    assert found.timesteps.min() >= 0
    assert 990 < found.timesteps.max() < 1000


def test_without_the_sources_own_classifier_nothing_is_released(tmp_path: Path) -> None:
    study = study_of()
    site = make_site(tmp_path, "ada")
    request = request_of(site, study, "diffusion", DIFFUSION, weights=start(study, DIFFUSION))
    with pytest.raises(InputError, match="source_classifier"):
        diffusion.run(request)


def test_a_model_that_copies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path, with a sampler that hands out training images."""
    study = study_of(diffusion={"memorisation_threshold": 0.1})
    request = training_request(tmp_path, study)
    data = open_site(request.site, study)
    images = torch.from_numpy(data.images(data.split.train)).unsqueeze(1).float() / 255
    monkeypatch.setattr(diffusion, "draw", lambda _, hints, *__: images[: len(hints)])
    with pytest.raises(ReleaseRefused):
        diffusion.run(request)
    record = json.loads((request.site.folder / "memorisation.json").read_text())
    assert record["released"] is False
    assert record["correlation"] == 1


def test_the_check_draws_from_noise_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn from a held-out image itself would resemble no training image."""
    study = study_of(reconstruct={"init": "sdedit"})
    asked = []
    plain = reconstruction.draw

    def seen(model, hints, noise, settings, compute):  # type: ignore[no-untyped-def]
        asked.append((settings.init, len(hints)))
        return plain(model, hints, noise, settings, compute)

    monkeypatch.setattr(diffusion, "draw", seen)
    answer(training_request(tmp_path, study))
    assert asked == [("noise", 4), ("noise", 4)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_overfitted_on_sixteen_images_is_refused() -> None:
    """The positive control of the memorisation check: it has little else to draw than them."""
    images, _ = phantom("linear_hd", 64, SIDE, 0)
    training, held_out = images[:16], images[16:]
    settings, edges = Diffusion(preset="tiny"), find_edges(training)
    torch.manual_seed(0)
    with deterministic(0, 1):
        network = overfitted(DiffusionModel(settings, SIDE), training, edges, steps=700)
        found = figures_of(
            network, training, held_out, correlation_vector,
            Reconstruct(sampler="dpm", steps=10), Compute(), samples=64, seed=0,
        )  # fmt: skip
    assert found.share > 0.2
    with pytest.raises(ReleaseRefused):
        refuse_above(found, Diffusion().memorisation_threshold)


def overfitted(
    network: DiffusionModel, images: np.ndarray, edges: Edges, steps: int
) -> DiffusionModel:
    """The stage's own steps over a handful of images."""
    schedule, settings = training_noise(network.settings), network.settings
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    average, rng = Average(network, 0.99), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = rng.choice(len(images), 8, replace=False)
        clean = network.encode(to_unit(images[rows], "cpu"))
        drawn = Draws.of(8, network.shape, 1000, settings, generator, "cpu")
        said = network(
            schedule.add_noise(clean, drawn.noise, drawn.timesteps), drawn.timesteps,
            torch.from_numpy(edges.hints(rows)), drawn.keep_hint, drawn.keep_prompt,
        )  # fmt: skip
        target = schedule.get_velocity(clean, drawn.noise, drawn.timesteps)
        optimizer.zero_grad()
        (said - target).square().mean().backward()
        optimizer.step()
        average.update(network)
    average.put_into(network)
    return network.eval()
