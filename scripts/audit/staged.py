"""The study of `sonofed audit prove`: a whole one, as small as it can be, over canaries."""

from pathlib import Path
from typing import Any

from common.config.load import parse_study
from common.config.study import Study
from scripts.audit.canary import Canaries, write_site

SIDE = 32
"""Pixels at which the study trains; the canaries' files have twice as many."""
TABLES: dict[str, Any] = {
    "name": "audit",
    "seed": 0,
    "split": {"val": 0.25, "test": 0.25},
    "model": {
        "preset": "tiny",
        "image_size": SIDE,
        "options": {
            "hidden": 48, "blocks": 1, "mlp": 96, "decoder": [16, 8, 8, 8], "head_channels": 32,
        },
    },
    "mim": {"epochs": 1},
    "contrastive": {"epochs": 1, "min_frame_gap": 1},
    "finetune": {"epochs": 1},
    "evaluate": {"bootstrap": 100, "overlays": 0},
    "compute": {"batch": 8, "jobs": 2},
}  # fmt: skip


def study(*, quick: bool) -> Study:
    """The study.

    Args:
        quick: Two hospitals and every stage once; else three, with adaptation, two rounds each.
    """
    sites = {"canary-source": {"role": "source"}, "canary-target": {"role": "target"}}
    more: dict[str, Any] = {"arms": ["ensemble"]}
    if not quick:
        sites["canary-other"] = {"role": "target"}
        more = {
            "arms": ["ensemble", "ensemble_adapted", "lower"],
            "adapt": {"rounds": 1, "epochs": 1, "bound": 100.0},
            "mim": {"epochs": 1, "rounds": 2},
            "contrastive": {"epochs": 1, "rounds": 2, "min_frame_gap": 1},
        }
    named = {name: {**site, "folder": name} for name, site in sites.items()}
    return parse_study({**TABLES, **more, "sites": named}, "audit")


def write_data(folder: Path, study: Study) -> Canaries:
    """Each site's canaries; what is to be searched for."""
    made = Canaries()
    for name in study.sites:
        made.add(write_site(folder / name, name, seen=SIDE, patients=24))
    return made
