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
