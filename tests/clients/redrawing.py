"""A source and two targets with small outlined images, and the smallest diffusion model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from clients.classifiers import keep_classifier
from clients.request import Request
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study
from common.models import diffusion
from common.models.branches import State, fresh, shared_state
from common.models.diffusion import Size
from common.plan import make_plan

ARCHITECTURE = "test_efficientnet"
CLASSIFIER = f"{ARCHITECTURE}/source_classifier"
DIFFUSION = "source/diffusion"
SIDE = 32
IMAGES = 20
ROLES = {"ada": "source", "bo": "target", "cy": "target"}
TABLES: dict[str, Any] = {
    "name": "redrawing",
    "seed": 11,
    "arms": ["dual"],
    "sites": {name: {"role": role} for name, role in ROLES.items()},
    "split": {"val": 0.2, "test": 0.3},
    "model": {"preset": "tiny", "image_size": SIDE},
    "diffusion": {
        "preset": "tiny", "epochs": 2, "batch": 4, "memorisation_samples": 8,
        "memorisation_threshold": 1.0, "learning_rate": 1e-3,
    },
    "reconstruct": {"steps": 2, "batch": 4},
    "sphere": {"architecture": ARCHITECTURE, "hidden": 16, "dimension": 8},
    "select": {"budgets": [0.5]},
    "classify": {"architectures": [ARCHITECTURE]},
}  # fmt: skip


def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset tiny with next to no channels."""
    monkeypatch.setitem(diffusion.SIZES, "tiny", Size((8, 16), 1))


def study_of(**changes: Any) -> Study:
    """The study with changes laid over its tables."""
    tables = {key: {**TABLES.get(key, {}), **value} for key, value in changes.items()}
    return parse_study({**TABLES, **tables}, "redrawing")


def picture(place: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Speckle, 24 rows of 32, with a dark lesion; and where it is."""
    draw = np.random.default_rng([place, *name.encode()])
    rows, columns = np.mgrid[:24, :SIDE]
    centre, radius = draw.integers((8, 9), (17, 23)), draw.integers(3, 6)
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    pixels = draw.integers(90, 200, (24, SIDE)) // (2 if name == "ada" else 1)
    pixels[mask] //= draw.integers(2, 6)
    return pixels.astype(np.uint8), mask.astype(np.uint8) * 255


def make_site(root: Path, name: str) -> SiteSettings:
    """A site; every fourth image has no mask."""
    folder = root / "data" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        lines = ["id,image,mask,label"]
        for place in range(IMAGES):
            pixels, mask = picture(place, name)
            Image.fromarray(pixels).save(folder / f"{place}.png")
            Image.fromarray(mask).save(folder / f"{place}_mask.png")
            outlined = f"{place}_mask.png" if place % 4 else ""
            lines.append(
                f"{name}-{place:02},{place}.png,{outlined},{('malignant', 'benign')[place % 2]}"
            )
        text = "\n".join(lines) + "\n"
        (folder / "index.csv").write_text(text)
    return SiteSettings.model_validate(
        {
            "name": name, "role": ROLES[name], "data": DataSpec(folder=name),
            "data_root": root / "data", "folder": root / "sites" / name, "cache": root / "cache",
        }
    )  # fmt: skip


def start(study: Study, key: str) -> State:
    """A training's random start."""
    return shared_state(fresh(study, make_plan(study).trainings[key]))


def request_of(
    site: SiteSettings,
    study: Study,
    stage: str,
    key: str = "",
    step: str = "",
    weights: dict[str, Tensor] | State | None = None,
) -> Request:
    """A request as the app makes one."""
    return Request(site, study, make_plan(study), stage, key, 1, weights or {}, step)


def training_request(root: Path, study: Study) -> Request:
    """The source's first round of diffusion, its classifier (untrained) in place."""
    site = make_site(root, "ada")
    keep_classifier(site.folder, ARCHITECTURE, start(study, CLASSIFIER))
    return request_of(site, study, "diffusion", DIFFUSION, weights=start(study, DIFFUSION))
