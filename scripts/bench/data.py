"""Bench `data`: an epoch from the cache against decoding every file again.

Legend: S = side in pixels.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from clients.data.preprocess import square_image
from clients.data.readers import read_pillow
from clients.data.site import SiteData
from clients.settings import SiteSettings
from common.config.data import DataSpec, SplitConfig

HEIGHT, WIDTH = 480, 600
BATCH = 32


def bench(images: int = 200, side: int = 224, seed: int = 0) -> list[dict[str, str | float]]:
    """Times an epoch in shuffled batches of 32, the best of three, on smooth noise as PNG.

    Args:
        images: Number of 600 x 480 files.
        side: S.
        seed: Of the noise and the order.

    Returns:
        Records `data.epoch` (cached, against decoding), `data.open` (first opening with digests
        and decoding, against decoding alone) and `data.reopen` (against the first opening);
        seconds, and ratio = reference / ours.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, images, rng)
        settings = SiteSettings(
            name="bench",
            role="source",
            data=DataSpec(folder="."),
            data_root=folder,
            folder=folder / "run",
            cache=folder / "cache",
        )

        def open_site() -> SiteData:
            return SiteData.open(settings, side=side, split=SplitConfig())

        first = _seconds(open_site, times=1)
        again = _seconds(open_site)
        site = open_site()
        batches = np.array_split(rng.permutation(images), max(1, images // BATCH))

        def cached() -> None:
            for batch in batches:
                site.images(batch)

        def decoding() -> None:
            for batch in batches:
                np.stack([square_image(read_pillow(site.rows[i].image), side) for i in batch])

        ours, reference = _seconds(cached), _seconds(decoding)
    return [
        _record("data.epoch", ours, reference),
        _record("data.open", first, reference),
        _record("data.reopen", again, first),
    ]


def _record(name: str, ours: float, reference: float) -> dict[str, str | float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "name": name,
        "ours": round(ours, 5),
        "reference": round(reference, 5),
        "unit": "s",
        "ratio": round(reference / ours, 5),
        "peak_rss_mb": round(peak, 1),
    }


def _seconds(work: Callable[[], object], times: int = 3) -> float:
    """Wall time of the quickest of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _write(folder: Path, images: int, rng: np.random.Generator) -> None:
    lines = ["id,image"]
    for index in range(images):
        grey = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 1.5)
        picture = np.clip(128 + 160 * grey, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index:04d}.png", compress_level=3)
        lines.append(f"{index:04d},{index:04d}.png")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
