"""How near reconstructions come to the source's style, and what of the image they keep.

P2 Table 4 (PSNR, MS-SSIM, RMSE, LPIPS), Table 1 and Fig. 1 (similarity, domain bias, densities),
the grey levels' distance, and the lesion's contrast. Numbers of single images stay here; what is
given back are counts, means, deviations and histograms.

Legend: N images, S side in pixels, D features.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from common.errors import InputError
from common.reconstruction import GREY_CELLS

Squares = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Net = Literal["alex", "vgg"]

CHUNK = 32
HIGHEST_PSNR = 100.0
"""Of an image that comes back unchanged, where PSNR has no bound."""

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales (Wang 2003)."""

WINDOWS = {1.5: 11, 0.8: 7}
"""torchmetrics' window for a Gaussian's width; it asks for both."""

LPIPS_FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
"""torchvision's ImageNet backbones, by the names under which they are published."""

FEWEST = 5
"""A number that fewer lesions stand behind says too much of each, and too little of the model."""


def ms_ssim_scales(side: int) -> tuple[float, tuple[float, ...]]:
    """Width of the Gaussian and weights of the scales of MS-SSIM at a side.

    From 176 px up it is the published one: 1.5 pixels, that is a window of 11, and five scales.
    Below, scales go and then the window shrinks to 7, until the coarsest picture holds it; the
    weights that are left are scaled to a sum of 1. So numbers of different sides do not compare: 64
    and 96 px have four scales and a window of 7.
    """
    for sigma, scales in ((1.5, 5), (1.5, 4), (0.8, 4), (0.8, 3)):
        # torchmetrics' own bound on what a number of scales needs.
        if side // max(1, scales - 1) ** 2 > WINDOWS[sigma] - 1:
            kept = MS_SSIM_WEIGHTS[:scales]
            return sigma, tuple(weight / sum(kept) for weight in kept)
    return 0.8, (1.0,)


def fidelity(images_NSS: Squares, redrawn_NSS: Squares) -> dict[str, Numbers]:
    """PSNR (dB), MS-SSIM and RMSE (grey levels of 255) of each image (P2 Table 4).

    Returns:
        name -> (N,).
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as ms_ssim,
    )

    sigma, weights = ms_ssim_scales(images_NSS.shape[-1])
    found: dict[str, list[Numbers]] = {"psnr": [], "ms_ssim": [], "rmse": []}
    for given, redrawn in _chunks(images_NSS, redrawn_NSS):
        squared = (given - redrawn).double().square().mean((1, 2, 3)).numpy()
        with np.errstate(divide="ignore"):
            psnr = 10 * np.log10(255**2 / squared)
        found["psnr"].append(np.minimum(psnr, HIGHEST_PSNR))
        found["rmse"].append(np.sqrt(squared))
        index = ms_ssim(
            redrawn.double(), given.double(), data_range=255.0, sigma=sigma,
            kernel_size=WINDOWS[sigma], betas=weights, reduction="none",
        )  # fmt: skip
        found["ms_ssim"].append(index.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def lpips(
    images_NSS: Squares, redrawn_NSS: Squares, folder: Path, net: Net = "alex"
) -> Numbers | None:
    """LPIPS of each image (P2 Table 4), where the backbone's weights are on the disk.

    Args:
        images_NSS: The images.
        redrawn_NSS: Their reconstructions.
        folder: Holds `LPIPS_FILES`; the linear layers come with torchmetrics.
        net: "alex" or "vgg".

    Returns:
        (N,), or None where the folder has no file for this backbone.

    Raises:
        InputError: If the file is no state dict of the backbone.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    path = folder / LPIPS_FILES[net]
    if not path.is_file():
        return None
    network: Any = _LPIPS(pretrained=True, net=net, pnet_rand=True, eval_mode=True)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # torchmetrics cuts the backbone into slices and keeps the layers' numbers.
        network.net.load_state_dict(
            {name: state[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()}
        )
    except Exception as error:  # torch.load raises RuntimeError, UnpicklingError and others
        raise InputError(f"LPIPS weights {path}: unreadable ({str(error)[:120]})") from None
    parts = []
    with torch.inference_mode():
        for given, redrawn in _chunks(images_NSS, redrawn_NSS):
            pair = [(x / 127.5 - 1).expand(-1, 3, -1, -1) for x in (given, redrawn)]
            parts.append(network(*pair).flatten().double().numpy())
    return np.concatenate(parts)


def _chunks(images_NSS: Squares, redrawn_NSS: Squares) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images_NSS), CHUNK):
        place = slice(start, start + CHUNK)
        yield (
            torch.from_numpy(np.array(images_NSS[place])).unsqueeze(1).float(),
            torch.from_numpy(np.array(redrawn_NSS[place])).unsqueeze(1).float(),
        )


def similarity(features_ND: NDArray[np.floating], source_D: NDArray[np.floating]) -> Numbers:
    """(N,) cosine similarity of each image to the source's mean features (P2 Table 1, ours)."""
    features = np.asarray(features_ND, np.float64)
    source = np.asarray(source_D, np.float64)
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(source)
    found: Numbers = features @ source / np.maximum(lengths, 1e-12)
    return found


def grey_levels(images_NSS: Squares, pictures_NSS: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(256,) pixels by grey level, inside the pictures only: padding is no style."""
    return np.bincount(np.asarray(images_NSS)[pictures_NSS], minlength=GREY_CELLS).astype(np.int64)


def lesion_contrast(
    images_NSS: Squares, masks_NSS: NDArray[np.bool_], pictures_NSS: NDArray[np.bool_]
) -> Numbers:
    """(N,) mean inside the lesion minus mean of a ring around it, in grey levels of 255.

    The ring is a sixteenth of the side wide; without a lesion or a ring: NaN.

    Args:
        images_NSS: Images or reconstructions.
        masks_NSS: The lesions.
        pictures_NSS: Where the picture is.
    """
    found = np.full(len(images_NSS), np.nan)
    width = max(2, images_NSS.shape[-1] // 16)
    for place, mask_SS in enumerate(masks_NSS):
        ring_SS = ndimage.binary_dilation(mask_SS, iterations=width) & ~mask_SS
        ring_SS &= pictures_NSS[place]
        if mask_SS.any() and ring_SS.any():
            image_SS = images_NSS[place]
            found[place] = float(image_SS[mask_SS].mean()) - float(image_SS[ring_SS].mean())
    return found


def contrast_kept(before_N: Numbers, after_N: Numbers) -> dict[str, float | int]:
    """How much of the lesions' contrast the reconstructions keep.

    Args:
        before_N: Contrast of the images; NaN: none.
        after_N: Contrast of their reconstructions.

    Returns:
        `contrast_images`, and where they are five or more `contrast_correlation` over the images
        and `contrast_ratio`, the slope of after on before through the origin (1: kept, 0: lost).
    """
    known = ~(np.isnan(before_N) | np.isnan(after_N))
    before, after = before_N[known], after_N[known]
    if len(before) < FEWEST:
        return {"contrast_images": 0}
    power = float(before @ before)
    found: dict[str, float | int] = {"contrast_images": len(before)}
    if before.std() > 0 and after.std() > 0:
        found["contrast_correlation"] = float(np.clip(np.corrcoef(before, after)[0, 1], -1, 1))
    if power > 0:
        found["contrast_ratio"] = float(before @ after) / power
    return found


def mean_and_std(name: str, values_N: Numbers) -> dict[str, float | int]:
    """`<name>_mean` and `<name>_std` (of the population) of numbers of images."""
    return {f"{name}_mean": float(values_N.mean()), f"{name}_std": float(values_N.std())}
