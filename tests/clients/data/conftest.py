"""A small site on disk, written as somebody would lay one out."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.settings import SiteSettings
from common.config.data import DataSpec

Rows = list[dict[str, str]]


@pytest.fixture
def table() -> Callable[..., Rows]:
    """Rows with ids i0, i1, ..., and each further column made from the row's index."""

    def make(count: int, *, masks: bool = True, **columns: Callable[[int], str]) -> Rows:
        return [
            {
                "id": f"i{i}",
                "image": f"images/i{i}.png",
                "mask": f"masks/i{i}.png" if masks else "",
                **{name: value(i) for name, value in columns.items()},
            }
            for i in range(count)
        ]

    return make


@pytest.fixture
def write_site(tmp_path: Path) -> Callable[[Rows], Path]:
    """Writes index.csv, and a random image (and a mask with a disc) wherever a row names one."""

    def write(rows: Rows) -> Path:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        y, x = np.mgrid[:40, :50]
        disc = ((y - 20) ** 2 + (x - 25) ** 2 < 80).astype(np.uint8) * np.uint8(255)
        for row in rows:
            grey = rng.integers(0, 256, (40, 50), dtype=np.uint8)
            for kind, pixels in (("image", grey), ("mask", disc)):
                if row.get(kind):
                    path = folder / row[kind]
                    path.parent.mkdir(exist_ok=True)
                    Image.fromarray(pixels).save(path)
        return folder

    return write


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., SiteSettings]:
    def make(role: str = "source", **spec: object) -> SiteSettings:
        return SiteSettings.model_validate(
            {
                "name": "north",
                "role": role,
                "data": DataSpec.model_validate({"folder": "site", **spec}),
                "data_root": tmp_path,
                "folder": tmp_path / "run" / "sites" / "north",
                "cache": tmp_path / "cache",
            }
        )

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real ultrasound; tests that use it are skipped where it is absent."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("SONOFED_DATA") or beside)
    if not (folder / "busi" / "index.csv").is_file():
        pytest.skip(f"no real ultrasound in {folder} (SONOFED_DATA)")
    return folder
