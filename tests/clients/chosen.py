"""A target with a dozen small images, some of them selected: what annotation works on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clients.annotations import Choice, write_worklist
from clients.data.cache import Digests
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study

IMAGES = 12
IDS = [f"i{place:02}" for place in range(IMAGES)]
TABLES: dict[str, Any] = {
    "name": "chosen",
    "arms": ["entropy", "random"],
    "sites": {"ada": {"role": "source"}, "bo": {"role": "target"}, "cy": {"role": "target"}},
    "model": {"preset": "tiny", "image_size": 32},
    "select": {"budgets": [0.2, 0.5]},
    "classify": {"architectures": ["resnet10t"]},
}


def study_of(**annotate: Any) -> Study:
    """A study of two selecting arms at two budgets."""
    return parse_study({**TABLES, "annotate": annotate}, "chosen")


def site_of(root: Path, labels: Mapping[str, str] | None = None, name: str = "bo") -> SiteSettings:
    """A target and its images; every other image is malignant unless told otherwise."""
    folder = root / "data" / name
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = ["id,image,label"]
    for place, id_ in enumerate(IDS):
        pixels = draw.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{id_}.png")
        label = (labels or {}).get(id_, ("benign", "malignant")[place % 2])
        lines.append(f"{id_},{id_}.png,{label}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return SiteSettings(
        name=name,
        role="target",
        data=DataSpec(folder=name),
        data_root=root / "data",
        folder=root / "sites" / name,
        cache=root / "cache",
    )


def choose(site: SiteSettings, arm: str, budget: float, ids: Sequence[str]) -> None:
    """Have an arm choose images, in this order."""
    choices = [Choice(id_, rank, arm) for rank, id_ in enumerate(ids, start=1)]
    write_worklist(site.folder, arm, budget, choices)


def choose_all(site: SiteSettings) -> None:
    """Both arms at both budgets; the union is i00 to i07."""
    choose(site, "entropy", 0.2, IDS[2:4])
    choose(site, "entropy", 0.5, IDS[2:8])
    choose(site, "random", 0.2, IDS[0:2])
    choose(site, "random", 0.5, [*IDS[0:2], *IDS[4:8]])


def digest_of(site: SiteSettings, id_: str) -> str:
    """SHA-256 of an image's file."""
    site.cache.mkdir(exist_ok=True)
    return Digests(site.cache).of(site.data_folder / f"{id_}.png")
