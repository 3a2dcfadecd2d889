"""A site's pool redrawn in the source's style, batch by batch, kept in its own folder (P2 2.1, II).

Legend: N = images, S = side in pixels, B = images at a time, D = features.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.data.site import SiteData
from clients.edges import Edges, digest_of_images, kept_edges
from clients.request import Request
from clients.settings import SiteSettings
from clients.site import open_site, training_rows
from clients.training import autocast, to_unit
from common.config.selection import Diffusion, Reconstruct
from common.config.stages import Compute
from common.config.study import Study
from common.errors import InputError
from common.models.diffusion import DiffusionModel, redraw
from common.seeds import generator_of
from common.wire.payload import digest_of

Squares = NDArray[np.uint8]

FOLDER = "reconstructions"
LATEST = "latest.json"
EDGES = "edges"
FEATURE_BATCH = 64
VERSION = 1


def local_settings(request: Request) -> Diffusion:
    """The study's diffusion table with this site's own folders: no path of them crosses."""
    settings = request.study.diffusion
    own = request.site.weights
    return settings.model_copy(
        update={
            "weights": str(own["diffusion"]) if "diffusion" in own else "",
            "text_weights": str(own["text"]) if "text" in own else "",
        }
    )


def redrawn_rows(data: SiteData, role: str) -> NDArray[np.int64]:
    """What a site redraws: a target its pool, a source its held-out test images (P2 Table 4)."""
    return data.split.test if role == "source" else training_rows(data, "reconstruct")


def draw(
    model: DiffusionModel,
    hints_BHW: NDArray[np.float32],
    noise_BChw: Tensor,
    settings: Reconstruct,
    compute: Compute,
    images_BSS: Squares | None = None,
) -> Tensor:
    """A batch drawn on edges, (B, 1, S, S) in [0, 1] on the CPU, at the study's precision."""
    device = compute.device
    given = None if images_BSS is None else to_unit(images_BSS, device)
    with torch.inference_mode(), autocast(compute):
        hints = torch.from_numpy(hints_BHW).to(device)
        return redraw(model, hints, noise_BChw.to(device), settings, given).float().cpu()


def to_bytes(images_B1HW: Tensor) -> Squares:
    """(B, S, S) uint8, the nearest grey level."""
    levels: Squares = (images_B1HW[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return levels


def image_noise(images_BSS: Squares, shape: tuple[int, int, int], seed: int | str) -> Tensor:
    """(B, C, h, w) normal noise, each image's own: it depends on its pixels and the seed alone.

    So it matters neither which images stand beside it nor when the work went on.
    """
    digests = (hashlib.sha256(np.ascontiguousarray(image).tobytes()) for image in images_BSS)
    return torch.stack(
        [
            torch.randn(shape, generator=generator_of(seed, "reconstruct", digest.hexdigest()))
            for digest in digests
        ]
    )


@dataclass(frozen=True)
class Work:
    """One pool's redrawing: where it is kept and under which name.

    Attributes:
        folder: The site's `reconstructions/`.
        key: SHA-256 over weights, settings, seed and pixels: another key, another file.
        images: N.
        side: S.
    """

    folder: Path
    key: str
    images: int
    side: int

    @property
    def file(self) -> Path:
        """The finished reconstructions, (N, S, S) uint8."""
        return self.folder / f"{self.key}.npy"

    @property
    def _part(self) -> Path:
        return self.folder / f"{self.key}.part"

    @property
    def _record(self) -> Path:
        return self.folder / f"{self.key}.json"

    def done(self) -> int:
        """Images that are on the disk."""
        if self.file.exists():
            return self.images
        if not (self._record.exists() and self._part.exists()):
            return 0
        return int(json.loads(self._record.read_text(encoding="utf-8"))["done"])

    def run(self, batch: int, make: Callable[[slice], Squares]) -> None:
        """Draw what is missing, batch by batch from the first; each is on the disk before the next.

        A batch is never drawn in parts: an image's last bits may depend on its neighbours.

        Args:
            batch: Images at a time.
            make: Gives (n, S, S) uint8 of a slice of the pool.
        """
        if self.file.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = (self.images, self.side, self.side)
        done = self.done()
        kept: Any = np.lib.format.open_memmap(
            self._part, "r+" if done else "w+", None if done else np.uint8, shape
        )
        for start in range(done, self.images, batch):
            place = slice(start, min(start + batch, self.images))
            kept[place] = make(place)
            kept.flush()
            write_json(self._record, {"done": place.stop, "of": self.images})
        del kept
        self._part.replace(self.file)


def redraw_pool(
    folder: Path,
    model: DiffusionModel,
    images_NSS: Squares,
    edges: Edges,
    settings: Reconstruct,
    compute: Compute,
    *,
    seed: int | str,
    weights: str,
) -> Work:
    """Redraw all images of a pool from their edges by the frozen model, going on where it stood.

    Args:
        folder: Where they are kept.
        model: In eval mode, on the study's device.
        images_NSS: The pool.
        edges: Of the same images.
        settings: Sampler, steps, guidance, start and batch.
        compute: Device and precision.
        seed: Of the noise, with each image's pixels.
        weights: The model's digest.
    """
    drawn = settings.model_dump(mode="json", exclude={"lpips_weights"})
    said = model.settings.model_dump(mode="json", exclude={"weights", "text_weights"})
    stated = json.dumps(
        [VERSION, weights, drawn, said, str(seed), compute.precision, compute.device,
         compute.threads, digest_of_images(images_NSS)], sort_keys=True,
    )  # fmt: skip
    key = hashlib.sha256(stated.encode()).hexdigest()
    work = Work(folder, key, len(images_NSS), images_NSS.shape[-1])

    def make(place: slice) -> Squares:
        noise = image_noise(images_NSS[place], model.shape, seed)
        return to_bytes(
            draw(model, edges.hints(place), noise, settings, compute, images_NSS[place])
        )

    work.run(settings.batch, make)
    write_json(folder / LATEST, {"key": key, "pixels": digest_of_images(images_NSS)})
    return work


def redraw_site(request: Request) -> int:
    """Redraw what this site has to, with the weights that came.

    Returns:
        How many images there are.
    """
    study, compute = request.study, request.study.compute
    data = open_site(request.site, study)
    images_NSS = data.images(redrawn_rows(data, request.site.role))
    model = DiffusionModel(local_settings(request), study.model.image_size)
    model.load_state_dict(dict(request.weights))
    model.to(compute.device).eval()
    work = redraw_pool(
        request.site.folder / FOLDER,
        model,
        images_NSS,
        site_edges(request.site, images_NSS),
        study.reconstruct,
        compute,
        seed=study.seed,
        weights=digest_of(request.weights),
    )
    return work.images


def site_edges(site: SiteSettings, images_NSS: Squares) -> Edges:
    """The edges of a site's images, kept in its folder."""
    return kept_edges(site.folder / EDGES, images_NSS)


def reconstructions(site: SiteSettings, study: Study) -> Squares:
    """A site's reconstructions.

    Returns:
        (N, S, S) uint8, read-only, in the order of `redrawn_rows`: at a target its pool
        (`training_rows(data, "reconstruct")`), at a source its test images.

    Raises:
        InputError: If there are none yet, or the images have changed since.
    """
    folder = site.folder / FOLDER
    data = open_site(site, study)
    missing = InputError(
        f"site {site.name}: its images have not been redrawn (stage reconstruct comes first)"
    )
    latest = folder / LATEST
    if not latest.exists():
        raise missing
    record = json.loads(latest.read_text(encoding="utf-8"))
    images_NSS = data.images(redrawn_rows(data, site.role))
    if record["pixels"] != digest_of_images(images_NSS):
        raise InputError(
            f"site {site.name}: its images have changed since they were redrawn "
            "(run stage reconstruct again)"
        )
    path = folder / f"{record['key']}.npy"
    if not path.exists():
        raise missing
    found: Squares = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def write_json(path: Path, value: object) -> None:
    """Write JSON in one move."""
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(value) + "\n", encoding="utf-8")
    part.replace(path)
