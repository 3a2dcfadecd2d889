"""One bundle of a run that has really trained, made once for all tests; nobody may change it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.phantom.write import generate
from common.config.load import parse_study
from scripts.export import reference_of
from scripts.simulate import Engine, run_study_here
from server.bundle import export as bundles
from tests.tiny import SMALLEST, tiny

SIDE = 32
STUDY = {
    "name": "carried",
    "arms": ["ensemble", "ensemble_adapted", "lower"],
    "sites": {
        "ada": {"role": "source", "folder": "linear_hd"},
        "bo": {"role": "target", "folder": "linear_pocket"},
    },
    "phantom": None,
    "model": SMALLEST,
    "finetune": {
        "epochs": 12, "optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.05,
    },
    "contrastive": {"epochs": 1, "min_frame_gap": 2, "learning_rate": 3e-4},
    "compute": {"batch": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Carried:
    """A finished run, its data, and the bundle made of it.

    Attributes:
        run: The run folder.
        data: Two phantom sites, each with `images/` and `index.csv`.
        bundle: The bundle of the run's ensemble.
    """

    run: Path
    data: Path
    bundle: Path


def make(place: Path) -> Carried:
    """Train the tiny study and export it."""
    data = place / "data"
    generate(data, anatomy="wrist", probes=("linear_hd", "linear_pocket"), patients=8, frames=3,
             side=48)  # fmt: skip
    run = place / "run"
    run_study_here(tiny(**STUDY), Engine.inprocess, data, run, resume=False)
    opened = bundles.open_run(run)
    config, ensemble = bundles.assemble(opened)
    reference = reference_of(opened, ensemble)
    bundles.export(opened, config, ensemble, place / "bundle", reference=reference)
    return Carried(run, data, place / "bundle")


CLASSIFYING = {
    "name": "sorted",
    "arms": ["random", "source_only"],
    "sites": {
        "ada": {"role": "source", "folder": "linear_hd"},
        "bo": {"role": "target", "folder": "linear_pocket"},
    },
    "phantom": None,
    "split": {"val": 0.2, "test": 0.2, "seed": 7},
    "model": {"image_size": SIDE},
    "source_classifier": {"epochs": 2, "batch": 4},
    "select": {"budgets": [0.3, 0.6]},
    "classify": {
        "architectures": ["shufflenet_v2_x0_5", "mobilenetv3_small_050"], "steps": 4, "batch": 4,
    },
    "evaluate": {"bootstrap": 100, "overlays": 0},
    "compute": {"batch": 4},
}  # fmt: skip


def make_classifying(place: Path) -> Carried:
    """Train tiny classifiers and export the first of the largest budget."""
    data = place / "data"
    generate(data, anatomy="breast", probes=("linear_hd", "linear_pocket"), patients=12, frames=3,
             side=48)  # fmt: skip
    run = place / "run"
    run_study_here(parse_study(CLASSIFYING, "sorted"), Engine.inprocess, data, run, resume=False)
    opened = bundles.open_run(run)
    config, network = bundles.assemble(opened)
    reference = reference_of(opened, network)
    bundles.export(opened, config, network, place / "bundle", reference=reference)
    return Carried(run, data, place / "bundle")


@pytest.fixture(scope="session")
def sorting(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """A run that only classifies, and its bundle; made once."""
    return make_classifying(tmp_path_factory.mktemp("sorting"))


@pytest.fixture(scope="session")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """Made once."""
    return make(tmp_path_factory.mktemp("carried"))


@pytest.fixture
def own_bundle(carried: Carried, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoilt."""
    return Path(shutil.copytree(carried.bundle, tmp_path / "own_bundle"))
