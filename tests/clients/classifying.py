"""Sites with two dozen small images whose label a classifier can learn: a bright or a dark disc."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clients.annotations import Choice, Label, add_labels, write_worklist
from clients.request import Request, Result
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study
from common.models.branches import fresh, norm_of, shared_state
from common.plan import make_plan
from common.wire.crossing import crossing
from common.wire.payload import check_metrics, check_names

ARCHITECTURE = "test_efficientnet"
OTHER = "test_resnet"
IMAGES = 24
IDS = [f"i{place:02}" for place in range(IMAGES)]
SIDE = 32
TABLES: dict[str, Any] = {
    "name": "classifying",
    "arms": ["dual", "random", "full", "source_only"],
    "sites": {"ada": {"role": "source"}, "bo": {"role": "target"}, "cy": {"role": "target"}},
    "split": {"val": 0.25, "test": 0.25},
    "model": {"preset": "tiny", "image_size": SIDE},
    "source_classifier": {"epochs": 3, "learning_rate": 3e-3},
    "sphere": {
        "epochs": 2, "architecture": ARCHITECTURE, "hidden": 16, "dimension": 8,
        "learning_rate": 1e-3,
    },
    "select": {"budgets": [0.5]},
    "classify": {"architectures": [ARCHITECTURE, OTHER], "epochs": 3, "batch": 4},
    "evaluate": {"bootstrap": 100, "overlays": 0},
    "compute": {"batch": 4},
}  # fmt: skip


def study_of(**changes: Any) -> Study:
    """A small study; a change to a table is laid over it, any other replaces."""
    tables = {
        key: {**TABLES[key], **value} if isinstance(TABLES.get(key), dict) else value
        for key, value in changes.items()
    }
    return parse_study({**TABLES, **tables}, "classifying")


def picture(place: int, malignant: bool) -> np.ndarray[Any, Any]:
    """Speckle with a disc in it, dark where malignant; no two are alike."""
    draw = np.random.default_rng(place)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre = draw.integers(11, 21, 2)
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < draw.integers(5, 9) ** 2
    pixels = draw.integers(70, 150, (SIDE, SIDE))
    pixels[disc] = 20 if malignant else 235
    return pixels.astype(np.uint8)


def site_of(
    root: Path,
    name: str = "bo",
    role: str = "target",
    labels: Mapping[str, str] | None = None,
) -> SiteSettings:
    """A site of two images a patient; every other patient's are malignant unless told otherwise."""
    folder = root / "data" / name
    folder.mkdir(parents=True)
    lines = ["id,image,patient,label"]
    for place, id_ in enumerate(IDS):
        malignant = bool(place // 2 % 2)
        Image.fromarray(picture(place + 100 * len(name), malignant)).save(folder / f"{id_}.png")
        label = (labels or {}).get(id_, ("benign", "malignant")[malignant])
        lines.append(f"{id_},{id_}.png,p{place // 2},{label}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return SiteSettings.model_validate(
        {
            "name": name, "role": role, "data": DataSpec(folder=name), "data_root": root / "data",
            "folder": root / "sites" / name, "cache": root / "cache",
        }
    )  # fmt: skip


def annotate(site: SiteSettings, arm: str, budget: float, labels: Mapping[str, str]) -> None:
    """Experts have said this of what an arm chose."""
    ids = list(labels)
    write_worklist(site.folder, arm, budget, [Choice(i, n, arm) for n, i in enumerate(ids, 1)])
    add_labels(
        site.folder, [Label(i, labels[i], "reader", "2027-03-01T00:00:00Z", "0" * 64) for i in ids]
    )


def request_of(
    site: SiteSettings,
    study: Study,
    stage: str,
    key: str = "",
    weights: Mapping[str, Tensor] | None = None,
    round_: int = 1,
) -> Request:
    """A request as the app makes one; a training's first round starts at its random weights."""
    plan = make_plan(study)
    training = plan.trainings.get(key)
    if weights is None and training is not None:
        weights = shared_state(fresh(study, training), norm_of(study, training))
    return Request(site, study, plan, stage, key, round_, weights or {})


def passed(request: Request, result: Result, category: str) -> Result:
    """A result as the wire lets it pass: every tensor and scalar has its name in the vocabulary."""
    spec = crossing(
        request.study, request.plan, category, request.stage, request.target, request.step
    )
    check_metrics(dict(result.metrics), spec.metrics, complete=spec.complete)
    sent = result.weights or {}
    check_names(list(sent), spec.up if result.weights is not None else ())
    for tensor, wanted in zip(sent.values(), spec.up, strict=False):
        assert tuple(tensor.shape) == wanted.shape, wanted.name
        assert str(tensor.dtype) == f"torch.{wanted.dtype}", wanted.name
        assert tensor.is_contiguous(), wanted.name
    return result


def equal(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    """Whether two states are the same to the last bit."""
    assert a is not None
    assert b is not None
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
