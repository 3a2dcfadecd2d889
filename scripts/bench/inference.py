"""Bench `inference`: a frame to its mask, the default of `sonofed predict` against the plain way.

The plain way is an eager float32 pass of each branch, one frame at a time, and the infusion head.
Both begin with the frame as the scanner gave it and end with the mask in its geometry. Weights: a
bundle's, or (for speed at full size) random ones under a head fitted to the frames' masks, so that
probabilities run from 0 to 1 as a trained network's do. How faithful a precision is on a network
that has really trained is for a bundle to say.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.data.preprocess import square_image
from clients.phantom.anatomy import ANATOMIES
from clients.phantom.probes import PROBES
from clients.phantom.render import Camera
from clients.predict.masks import segment
from clients.predict.precision import Precision
from clients.predict.runtimes import TorchRuntime
from clients.predict.sources import Shot
from common.bundle.ensemble import Ensemble, load_segmentation, read_config
from common.config.stages import Infusion
from common.models.transunet import PresetName, TransUNet, TransUNetConfig
from scripts.bench.measure import Facts, Record, Work, compare, record

THREADS = (1, 2)
FRAME_PX = 300
MEMBERS = 2
RIDGE = 1e-3
LOGIT = 4.0
"""What the fitted head aims at inside the mask, and below 0 outside."""


def run(
    *,
    precisions: Sequence[Precision] = ("int8", "bf16", "fp32"),
    threads: Sequence[int] = THREADS,
    preset: PresetName = "r50-vit-b16",
    bundle: str = "",
    frames: int = 4,
    repeats: int = 5,
    seed: int = 0,
    fresh: bool = True,
) -> Iterator[Record]:
    """Yields one record for each number of threads and precision of ours.

    Args:
        precisions: Of ours; the first is the default of `sonofed predict` on a CPU.
        threads: Of one operation. Seconds are CPU time for one, wall time for more.
        preset: Size of the network where no bundle is named.
        bundle: A bundle's folder: its weights.
        frames: Behind the time of one repeat.
        repeats: Of each way.
        seed: Of weights and frames.
        fresh: Each way in a process of its own.
    """
    for count in threads:
        for precision in precisions:
            ours, plainly = compare(
                quick, plain, repeats=repeats, fresh=fresh, ours_only={"precision": precision},
                preset=preset, bundle=bundle, frames=frames, seed=seed, threads=count,
            )  # fmt: skip
            apart = np.abs(ours.facts["branches"] - plainly.facts["branches"])
            moved = ours.facts["masks"] != plainly.facts["masks"]
            yield record(
                f"inference {precision}, {count} threads", ours, plainly,
                unit="s CPU a frame" if count == 1 else "s a frame",
                frames_per_second=1 / ours.seconds,
                max_branch_difference=float(apart.max()),
                mean_branch_difference=float(apart.mean()),
                mask_pixels_moved=float(moved.mean()),
                mask_share=float(plainly.facts["masks"].mean()),
                weights=bundle or f"random {preset}, fitted head", frames=frames, repeats=repeats,
                threads=count, seed=seed,
            )  # fmt: skip


class _Input(NamedTuple):
    """Frames and weights, alike in every process."""

    ensemble: Ensemble
    side: int
    shots: list[Shot]


def _input(preset: PresetName, bundle: str, frames: int, seed: int) -> _Input:
    names: tuple[object, ...] = ("bench inference", seed)
    anatomy = ANATOMIES["wrist"](names, 0)
    camera = Camera(PROBES["linear_pocket"], names, names, FRAME_PX)
    pictures = [camera.shoot(anatomy, number) for number in range(frames)]
    shots = [
        Shot(np.rint(255 * picture).astype(np.uint8), 0, 0, FRAME_PX, FRAME_PX)
        for picture, _ in pictures
    ]
    if bundle:
        folder = Path(bundle)
        return _Input(load_segmentation(folder), read_config(folder).model.image_size, shots)
    torch.manual_seed(seed)
    config = TransUNetConfig.preset(preset)
    members = [TransUNet(config).eval() for _ in range(MEMBERS)]
    squares = [square_image(shot.grey_hw, config.image_size) for shot in shots]
    masks = [square_image((mask > 0).astype(np.float32), config.image_size) for _, mask in pictures]
    for member in members:
        _fit_head(member, _unit(np.stack(squares)), _unit(np.stack(masks)))
    return _Input(Ensemble(members, Infusion()).eval(), config.image_size, shots)


def _fit_head(member: TransUNet, images_B1SS: Tensor, masks_B1SS: Tensor) -> None:
    """Ridge regression of the masks' logits on the decoder's last channels, as the head."""
    with torch.inference_mode():
        maps = torch.cat([member.decode(member.encode(image[None])) for image in images_B1SS])
    x_NC = maps.movedim(1, -1).reshape(-1, maps.shape[1]).double()
    mean_C, sd_C = x_NC.mean(dim=0), x_NC.std(dim=0) + 1e-6
    z_NC = (x_NC - mean_C) / sd_C
    y_N = LOGIT * (2 * masks_B1SS.reshape(-1).double() - 1)
    gram = z_NC.T @ z_NC / len(z_NC) + RIDGE * torch.eye(z_NC.shape[1], dtype=torch.double)
    weight_C = torch.linalg.solve(gram, z_NC.T @ (y_N - y_N.mean()) / len(z_NC))
    weight_C *= LOGIT / (z_NC @ weight_C).std()
    with torch.no_grad():
        member.head.weight.zero_()
        member.head.weight[0, :, 1, 1] = (weight_C / sd_C).float()
        assert member.head.bias is not None
        member.head.bias.fill_(float(y_N.mean() - (weight_C * mean_C / sd_C).sum()))


def quick(
    *, preset: PresetName, bundle: str, frames: int, seed: int, threads: int, precision: Precision
) -> Work:
    """Ours, as `sonofed predict` does it."""
    given = _input(preset, bundle, frames, seed)
    torch.set_num_threads(threads)
    runtime = TorchRuntime(given.ensemble, precision)
    threshold = given.ensemble.infusion.threshold

    def one(shot: Shot) -> tuple[NDArray[Any], NDArray[Any]]:
        answer = runtime(square_image(shot.grey_hw, given.side))
        return answer.branches_MCSS, segment(answer.pred_CSS, shot, threshold).labels_HW

    return _work(one, given.shots, threads)


def plain(*, preset: PresetName, bundle: str, frames: int, seed: int, threads: int) -> Work:
    """Two eager float32 passes and the infusion head, one frame at a time."""
    given = _input(preset, bundle, frames, seed)
    torch.set_num_threads(threads)
    ensemble, threshold = given.ensemble, given.ensemble.infusion.threshold

    def one(shot: Shot) -> tuple[NDArray[Any], NDArray[Any]]:
        with torch.inference_mode():
            image = _unit(square_image(shot.grey_hw, given.side)[None])
            branches = [member(image).sigmoid() for member in ensemble.members]
            fused = ensemble.fuse(branches)
        mask = segment(fused[0].numpy(), shot, threshold).labels_HW
        return torch.stack(branches, dim=1)[0].numpy(), mask

    return _work(one, given.shots, threads)


def _work(one: Any, shots: Sequence[Shot], threads: int) -> Work:
    clock = time.process_time if threads == 1 else time.perf_counter
    one(shots[0])

    def work() -> tuple[float, Facts]:
        began = clock()
        said = [one(shot) for shot in shots]
        seconds = (clock() - began) / len(shots)
        branches, masks = zip(*said, strict=True)
        return seconds, {"branches": np.stack(branches), "masks": np.stack(masks)}

    return work


def _unit(squares_BSS: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(squares_BSS).unsqueeze(1).float() / 255
