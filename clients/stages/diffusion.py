"""diffusion: a denoising model with ControlNet on edges, learned on source images (P2 2.1, I).

The weights leave only if they do not redraw the images that they were trained on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.classifiers import features_of, load_classifier, own_classifier
from clients.data.site import SiteData
from clients.edges import Edges, find_edges, kept_edges
from clients.memorisation import Features, Memorisation, measure, refuse_above
from clients.reconstruction import draw, local_settings, to_bytes
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.training import (
    accumulated,
    autocast,
    draws,
    make_optimizer,
    proximal_of,
    run_epochs,
    to_unit,
)
from common.config.selection import Diffusion, Reconstruct
from common.config.stages import Compute
from common.errors import InputError
from common.models.branches import load_shared, shared_state
from common.models.diffusion import DiffusionModel
from common.models.diffusion_schedule import training_noise
from common.seeds import generator_of, seed_of

RECORD = "memorisation.json"
"""In the site's folder: what the check found, its bounds too."""


def run(request: Request) -> Result:
    """One round of training, and the memorisation check of what came out.

    Returns:
        The averaged (EMA) weights of what is trained, the losses, and the check's figures.

    Raises:
        ReleaseRefused: If the model redraws training images; the figures stay at the site.
    """
    study, compute = request.study, request.study.compute
    settings = local_settings(request)
    data = open_site(request.site, study)
    rows = training_rows(data, "diffusion")
    network = DiffusionModel(settings, study.model.image_size)
    load_shared(network, request.weights)
    network.to(compute.device)
    edges = kept_edges(request.site.folder / "edges", data.images(rows))
    kept = Average(network, settings.ema_decay)
    progress = run_epochs(
        request,
        data,
        network,
        rows,
        accumulated(
            denoising_loss(request, network, data, rows, edges),
            settings.micro_batch or compute.micro_batch,
            network,
            proximal_of(request, network),
        ),
        make_optimizer(network.parameters(), settings),
        after_step=lambda: kept.update(network),
    )
    kept.put_into(network)
    network.eval()
    found = check(request, network, data)
    network.cpu()
    return Result({**progress.metrics(), **found.metrics()}, shared_state(network))


class Average:
    """An exponential moving average of a network's weights (EMA), young at first.

    The decay begins low, so that a short training is not still full of its random start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take a step's weights in: min(decay, (1 + n) / (10 + n)) of the average stays."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = [p.detach() for p in network.parameters()]
        torch._foreach_lerp_(self.weights, now, 1 - decay)

    @torch.no_grad()
    def put_into(self, network: nn.Module) -> None:
        """The average in place of the weights."""
        for parameter, average in zip(network.parameters(), self.weights, strict=True):
            parameter.copy_(average)


@dataclass(frozen=True)
class Draws:
    """What a batch of B images is noised with; drawn on the CPU, the same on every device."""

    noise: Tensor
    timesteps: Tensor
    keep_hint: Tensor
    keep_prompt: Tensor

    @classmethod
    def of(
        cls,
        count: int,
        shape: tuple[int, int, int],
        timesteps: int,
        settings: Diffusion,
        generator: torch.Generator,
        device: str,
    ) -> "Draws":
        """Noise, timesteps, and whose hint and prompt are hidden, from one generator."""
        drawn = (
            torch.randn((count, *shape), generator=generator),
            torch.randint(0, timesteps, (count,), generator=generator),
            torch.rand(count, generator=generator) >= settings.hint_dropout,
            torch.rand(count, generator=generator) >= settings.prompt_dropout,
        )
        return cls(*(tensor.to(device) for tensor in drawn))


def denoising_loss(
    request: Request, network: DiffusionModel, data: SiteData, rows: NDArray[np.int64], edges: Edges
) -> Callable[[NDArray[np.int64]], Tensor]:
    """P2 Eq. 1, training: mean squared error of what the network says of noised images.

    Args:
        request: For the seeds.
        network: The model.
        data: The site's.
        rows: Ascending; what `edges` belong to.
        edges: Of the rows.

    Returns:
        Rows of a micro-batch to its loss.
    """
    compute, settings = request.study.compute, network.settings
    schedule = training_noise(settings)
    generator = draws(request, "noise")
    steps = int(schedule.config.num_train_timesteps)
    target_of = (
        schedule.get_velocity
        if schedule.config.prediction_type == "v_prediction"
        else lambda clean, noise, timesteps: noise
    )
    latents = _latents(network, data, rows, compute) if network.frozen is not None else None

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        places = np.searchsorted(rows, chosen)
        clean = (
            network.encode(to_unit(data.images(chosen), compute.device))
            if latents is None
            else latents[torch.from_numpy(places)].to(compute.device)
        )
        hints_BHW = torch.from_numpy(edges.hints(places)).to(compute.device)
        drawn = Draws.of(len(chosen), network.shape, steps, settings, generator, compute.device)
        noisy = schedule.add_noise(clean, drawn.noise, drawn.timesteps)
        with autocast(compute):
            said = network(noisy, drawn.timesteps, hints_BHW, drawn.keep_hint, drawn.keep_prompt)
        target = target_of(clean, drawn.noise, drawn.timesteps)
        error: Tensor = (said.float() - target).square().mean()
        return error

    return loss


def _latents(
    network: DiffusionModel, data: SiteData, rows: NDArray[np.int64], compute: Compute
) -> Tensor:
    """A frozen autoencoder says the same in every epoch: ask it once."""
    size = compute.micro_batch or compute.batch
    parts = [
        network.encode(to_unit(data.images(rows[start : start + size]), compute.device)).cpu()
        for start in range(0, len(rows), size)
    ]
    return torch.cat(parts)


def check(request: Request, network: DiffusionModel, data: SiteData) -> Memorisation:
    """Draw images on held-out edges and measure how near they come to the training images.

    Args:
        request: For the seeds and the site's folder.
        network: In eval mode.
        data: The site's.

    Raises:
        ReleaseRefused: At the threshold or above.
    """
    study, settings = request.study, network.settings
    held_out = np.sort(np.concatenate([data.split.val, data.split.test]))
    figures = figures_of(
        network,
        data.images(training_rows(data, "diffusion")),
        data.images(held_out),
        _features(request),
        study.reconstruct,
        study.compute,
        samples=settings.memorisation_samples,
        seed=seed_of(study.seed, request.target, request.site.name, request.round, "memorisation"),
    )
    path = request.site.folder / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    record = {"round": request.round, **figures.record(settings.memorisation_threshold)}
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    refuse_above(figures, settings.memorisation_threshold)
    return figures


def _features(request: Request) -> Features:
    """The features of the classifier that this source has trained itself.

    Raises:
        InputError: If it has trained none: without it nothing could be released.
    """
    study = request.study
    architecture = study.sphere.architecture
    state = own_classifier(request.site.folder, architecture)
    if state is None:
        raise InputError(
            f"site {request.site.name}: it has trained no {architecture} (stage source_classifier "
            "comes first), and without its features the diffusion model cannot be checked"
        )
    classifier = load_classifier(study, architecture, state)
    return lambda images_NSS: features_of(classifier, images_NSS, study.compute)


def figures_of(
    network: DiffusionModel,
    training_NSS: NDArray[np.uint8],
    held_out_NSS: NDArray[np.uint8],
    features: Features,
    sampling: Reconstruct,
    compute: Compute,
    *,
    samples: int,
    seed: int,
) -> Memorisation:
    """The memorisation check's figures for a model.

    Images are drawn from pure noise whatever `sampling.init` says: what is drawn from a held-out
    image itself could resemble nothing else.

    Args:
        network: In eval mode.
        training_NSS: What it was trained on.
        held_out_NSS: What it was not; its edges are drawn on, in turn, with ever new noise.
        features: The source classifier's.
        sampling: Sampler, steps, guidance and batch.
        compute: Device and precision.
        samples: Images to draw.
        seed: Of their noise.
    """
    edges = find_edges(held_out_NSS)
    from_noise = sampling.model_copy(update={"init": "noise"})
    drawn = []
    for start in range(0, samples, sampling.batch):
        numbers = np.arange(start, min(start + sampling.batch, samples))
        noise = torch.stack(
            [
                torch.randn(network.shape, generator=generator_of(seed, int(number)))
                for number in numbers
            ]
        )
        hints_BHW = edges.hints(numbers % len(held_out_NSS))
        drawn.append(to_bytes(draw(network, hints_BHW, noise, from_noise, compute)))
    return measure(np.concatenate(drawn), held_out_NSS, training_NSS, features)
