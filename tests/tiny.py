"""The smallest studies: three synthetic hospitals, one epoch everywhere, or no data at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

from common.config.load import parse_study
from common.config.study import Study

SMALLEST = {
    "preset": "tiny",
    "image_size": 32,
    "options": {
        "hidden": 48, "blocks": 1, "mlp": 96, "decoder": [16, 8, 8, 8], "head_channels": 32,
    },
}  # fmt: skip
TABLES: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "arms": ["ensemble", "lower", "ensemble_adapted", "upper"],
    "sites": {
        "north": {"role": "source", "probe": "linear_hd"},
        "east": {"role": "target", "probe": "linear_pocket"},
        "west": {"role": "target", "probe": "convex"},
    },
    "phantom": {"patients": 4, "frames": 2, "side": 64},
    "split": {"val": 0.25, "test": 0.25},
    "model": SMALLEST,
    "mim": {"epochs": 1},
    "contrastive": {"epochs": 1, "min_frame_gap": 2},
    "finetune": {"epochs": 1},
    "adapt": {"rounds": 1, "epochs": 1, "bound": 100.0},
    "evaluate": {"bootstrap": 100, "overlays": 0},
    "compute": {"batch": 2},
}


def tiny(**changes: Any) -> Study:
    """The study that really trains; `changes` replace whole tables."""
    return parse_study({**TABLES, **changes}, "tiny")


CHOOSING: dict[str, Any] = {
    "arms": ["dual", "entropy", "coreset", "ensemble_selected", "source_only"],
    "phantom": {"anatomy": "breast", "patients": 8, "frames": 2, "side": 64},
    "split": {"val": 0.25, "test": 0.25, "seed": 7},  # both labels in every part
    "source_classifier": {"epochs": 1, "batch": 4},
    "diffusion": {
        "preset": "tiny", "steps": 2, "batch": 2, "memorisation_samples": 8,
        "memorisation_threshold": 1.0,
    },
    "reconstruct": {"steps": 2, "batch": 4},
    "sphere": {
        "architecture": "shufflenet_v2_x0_5", "hidden": 16, "dimension": 8, "steps": 2,
        "batch": 4, "min_angle": 0.0, "min_rank": 1.0,
    },
    "score": {"clusters": 2, "restarts": 2},
    "select": {"budgets": [0.4]},
    "classify": {"architectures": ["shufflenet_v2_x0_5"], "steps": 2, "batch": 4},
    "finetune_selected": {"epochs": 1},
}  # fmt: skip


def choosing(**changes: Any) -> Study:
    """A study that chooses images, classifies with them, and fine-tunes an ensemble on them."""
    return tiny(**{**CHOOSING, **changes})


def worklists_of(run: Path) -> dict[str, str]:
    """Every site's worklists, word for word."""
    return {
        str(path.relative_to(run)): path.read_text(encoding="utf-8")
        for path in sorted(run.glob("sites/*/selection/**/worklist.csv"))
    }


def targets(count: int, **changes: Any) -> Study:
    """A study of one source and so many targets, for sites that are only played."""
    sites = {"source": {"role": "source"}} | {
        f"site{place}": {"role": "target"} for place in range(count)
    }
    tables = {**TABLES, "arms": ["mim"], "sites": sites, "phantom": None, **changes}
    return parse_study(tables, "targets")


def weights_of(run: Path) -> dict[str, str]:
    """SHA-256 of every file of weights in a run folder."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*.safetensors"))
        if "sites" not in path.relative_to(run).parts
    }


def results_of(run: Path) -> dict[str, Any]:
    """results.json without the study's digest, of which [compute] jobs is a part."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    del results["digest"]
    return results
