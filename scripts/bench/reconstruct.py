"""Bench `reconstruct`: images redrawn as a site does it, against one at a time with DDIM 50.

Both draw from the same weights on the same edges with the same noise, and start alike: from the
noised image, as the demo and the study do, or from noise alone. What they keep of the lesions'
contrast and how near the grey levels come to the source's stands beside the times. The
images are phantom breasts of two probes; the model is trained on the spot, shortly, so the quality
says which of the two draws worse and not how well a trained model draws.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from clients.edges import Edges, find_edges
from clients.memory import keep_freed_memory
from clients.phantom.anatomy import ANATOMIES
from clients.phantom.probes import PROBES
from clients.phantom.render import Camera
from clients.reconstruction import draw, image_noise, to_bytes
from clients.reconstruction_figures import contrast_kept, grey_levels, lesion_contrast
from clients.stages.diffusion import Average, Draws
from clients.training import autocast, make_optimizer, to_unit
from common.config.selection import Diffusion, Reconstruct
from common.config.stages import Compute
from common.models.diffusion import DiffusionModel, redraw
from common.models.diffusion_schedule import training_noise
from common.reconstruction import wasserstein
from common.seeds import deterministic, seed_of
from scripts.bench.measure import THREADS, Facts, Record, Stopwatch, Work, compare, record

SOURCE, TARGET = "linear_hd", "linear_pocket"
REFERENCE_STEPS = 50
SOURCE_IMAGES = 160
Bytes = NDArray[np.uint8]
Preset = Literal["tiny", "small"]
Sampler = Literal["ddim", "dpm"]
Init = Literal["noise", "sdedit", "ddim_inversion"]


def run(
    *,
    preset: Preset = "tiny",
    side: int = 64,
    images: int = 32,
    batch: int = 32,
    sampler: Sampler = "dpm",
    steps: int = 10,
    init: Init = "sdedit",
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    trained: int = 300,
    repeats: int = 3,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record; its seconds are those of one image.

    Args:
        preset: Size of the model.
        side: Pixels.
        images: Target images that are redrawn.
        batch: Images at a time, ours.
        sampler: Ours; the reference's is DDIM.
        steps: Ours; the reference takes 50.
        init: What both start from; with sdedit each runs .6 of its steps.
        precision: Ours; the reference's is float32.
        trained: Steps of 8 before; 0: random weights, which keep nothing.
        repeats: Of each way.
        seed: Of weights, noise and phantom.
        fresh: Each way in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_file(_train(preset, side, trained, seed), weights)
        ours, reference = compare(
            as_a_site, one_at_a_time, repeats=repeats, fresh=fresh,
            ours_only={"batch": batch, "sampler": sampler, "steps": steps, "precision": precision},
            weights=str(weights), preset=preset, side=side, images=images, seed=seed, init=init,
        )  # fmt: skip
    told = {
        f"{who}{name}": value
        for who, side_ in (("", ours), ("reference_", reference))
        for name, value in side_.facts.items()
        if name != "wasserstein_before"
    }
    line = record(
        f"reconstruct {sampler} {steps} from {init}", ours, reference,
        preset=preset, side=side, images=images, batch=batch, precision=precision, trained=trained,
        repeats=repeats, seed=seed, wasserstein_before=ours.facts["wasserstein_before"], **told,
    )  # fmt: skip
    yield {**line, "unit": "s CPU an image", "images_a_second": 1 / ours.seconds}


def phantom(probe: str, count: int, side: int, seed: int) -> tuple[Bytes, NDArray[np.bool_]]:
    """(N, S, S) breasts of so many patients under one probe, and their lesions."""
    pictures, masks = [], []
    for patient in range(count):
        names = (seed, "bench reconstruct", probe, patient)
        camera = Camera(PROBES[probe], names, names, side)
        picture, mask = camera.shoot(ANATOMIES["breast"](names, 0), 0)
        pictures.append(np.rint(picture * 255).astype(np.uint8))
        masks.append(np.asarray(mask) > 0)
    return np.stack(pictures), np.stack(masks)


def _model(preset: Preset, side: int, seed: int) -> DiffusionModel:
    torch.manual_seed(seed)
    return DiffusionModel(Diffusion(preset=preset), side)


def _train(preset: Preset, side: int, steps: int, seed: int) -> dict[str, torch.Tensor]:
    """A short training at the source, out of the parts that the stage uses."""
    model = _model(preset, side, seed)
    if steps:
        settings = Diffusion(preset=preset, learning_rate=2e-3)
        compute = Compute(precision="bfloat16")
        images_NSS, _ = phantom(SOURCE, SOURCE_IMAGES, side, seed)
        edges, schedule = find_edges(images_NSS), training_noise(settings)
        optimizer, average = make_optimizer(model.parameters(), settings), Average(model, 0.995)
        generator = torch.Generator().manual_seed(seed)
        rng = np.random.default_rng(seed)
        keep_freed_memory()
        with deterministic(seed, THREADS):
            for _ in range(steps):
                rows = rng.choice(len(images_NSS), 8, replace=False)
                clean = model.encode(to_unit(images_NSS[rows], "cpu"))
                drawn = Draws.of(8, model.shape, settings.timesteps, settings, generator, "cpu")
                noisy = schedule.add_noise(clean, drawn.noise, drawn.timesteps)
                hints = torch.from_numpy(edges.hints(rows))
                with autocast(compute):
                    said = model(noisy, drawn.timesteps, hints, drawn.keep_hint, drawn.keep_prompt)
                target = schedule.get_velocity(clean, drawn.noise, drawn.timesteps)
                optimizer.zero_grad(set_to_none=True)
                (said.float() - target).square().mean().backward()
                optimizer.step()
                average.update(model)
        average.put_into(model)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _ready(
    weights: str, preset: Preset, side: int, images: int, seed: int
) -> tuple[DiffusionModel, Bytes, NDArray[np.bool_], Edges, NDArray[np.int64]]:
    model = _model(preset, side, seed)
    model.load_state_dict(load_file(weights))
    images_NSS, masks_NSS = phantom(TARGET, images, side, seed)
    source_NSS, _ = phantom(SOURCE, images, side, seed_of(seed, "held out"))
    pictures = find_edges(source_NSS).pictures(slice(None))
    source = grey_levels(source_NSS, pictures)
    return model.eval(), images_NSS, masks_NSS, find_edges(images_NSS), source


def _facts(
    images_NSS: Bytes,
    masks_NSS: NDArray[np.bool_],
    redrawn_NSS: Bytes,
    edges: Edges,
    source: NDArray[np.int64],
) -> Facts:
    """What is kept of the contrast, and the grey levels' distance to the source, both ways."""
    pictures = edges.pictures(slice(None))
    before, after = (
        lesion_contrast(squares, masks_NSS, pictures) for squares in (images_NSS, redrawn_NSS)
    )
    kept = contrast_kept(before, after)
    return {
        **{name: value for name, value in kept.items() if name != "contrast_images"},
        "wasserstein_before": wasserstein(grey_levels(images_NSS, pictures), source),
        "wasserstein": wasserstein(grey_levels(redrawn_NSS, pictures), source),
    }


def as_a_site(
    *,
    weights: str,
    preset: Preset,
    side: int,
    images: int,
    seed: int,
    init: Init,
    batch: int,
    sampler: Sampler,
    steps: int,
    precision: Literal["float32", "bfloat16"],
) -> Work:
    """Ours: batches, the study's sampler and precision, deterministic kernels."""
    model, images_NSS, masks_NSS, edges, source = _ready(weights, preset, side, images, seed)
    settings = Reconstruct(sampler=sampler, steps=steps, init=init, batch=batch)
    compute = Compute(precision=precision)
    keep_freed_memory()

    def work() -> tuple[float, Facts]:
        parts = []
        with deterministic(seed, THREADS), Stopwatch() as watch:
            for start in range(0, images, batch):
                place = slice(start, start + batch)
                noise = image_noise(images_NSS[place], model.shape, seed)
                hints, given = edges.hints(place), images_NSS[place]
                parts.append(to_bytes(draw(model, hints, noise, settings, compute, given)))
        facts = _facts(images_NSS, masks_NSS, np.concatenate(parts), edges, source)
        return watch.seconds / images, facts

    return work


def one_at_a_time(
    *, weights: str, preset: Preset, side: int, images: int, seed: int, init: Init
) -> Work:
    """The plain way: float32, DDIM with 50 steps, image by image."""
    model, images_NSS, masks_NSS, edges, source = _ready(weights, preset, side, images, seed)
    settings = Reconstruct(sampler="ddim", steps=REFERENCE_STEPS, init=init)

    def work() -> tuple[float, Facts]:
        parts = []
        with Stopwatch() as watch:
            for place in range(images):
                one = slice(place, place + 1)
                noise = image_noise(images_NSS[one], model.shape, seed)
                hints = torch.from_numpy(edges.hints(one))
                given = to_unit(images_NSS[one], "cpu")
                parts.append(to_bytes(redraw(model, hints, noise, settings, given)))
        facts = _facts(images_NSS, masks_NSS, np.concatenate(parts), edges, source)
        return watch.seconds / images, facts

    return work
