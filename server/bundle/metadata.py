"""`configs/metadata.json`, `configs/inference.json` and `configs/federation.json` of a bundle."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from common.bundle.ensemble import EnsembleConfig
from common.bundle.files import VERSION
from common.config.study import Study
from common.formats import CellResult, Results

SCHEMA_URL = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
SCHEMA_FILE = Path(common.__file__).parent / "bundle" / "metadata.schema.json"
"""The same constraints, shipped: nothing is downloaded."""

RUN_PACKAGES = ("sonofed", "timm", "pydantic", "safetensors", "pillow", "pytorch-ignite", "fire")
"""What MONAI's runner needs beside MONAI."""

INTENDED_USE = (
    "Research. Not a medical device: nobody has cleared it for diagnosis or treatment. Check it on "
    "images of your own device before you rely on any mask."
)


def metadata(config: EnsembleConfig, results: Results | None) -> dict[str, Any]:
    """`configs/metadata.json` as MONAI's schema wants it."""
    side, channels = config.model.image_size, config.channels
    names = config.class_names
    classifies = config.task == "classification"
    plane = {"type": "image", "spatial_shape": [side, side], "dtype": "float32",
             "value_range": [0, 1], "is_patch_data": False}  # fmt: skip
    said = plane | ({"type": "probabilities", "spatial_shape": []} if classifies else {})
    return {
        "schema": SCHEMA_URL,
        "version": _version("sonofed"),
        "changelog": {_version("sonofed"): f"exported from study {config.study}"},
        "monai_version": _version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: _version(name) for name in RUN_PACKAGES},
        "name": f"{config.study}, {config.arm}",
        "task": f"Ultrasound {config.task}: {', '.join(names)}",
        "description": _description(config),
        "authors": "the sites of the study; made with sonofed",
        "copyright": "the sites of the study",
        "data_type": "grey B-mode frames: PNG, JPEG, TIFF, DICOM, video",
        "image_classes": "one grey channel in [0, 1], padded right and below to a square",
        "pred_classes": f"{channels} probabilities: {', '.join(names)}",
        "eval_metrics": _metrics(config, results),
        "intended_use": INTENDED_USE,
        "references": [],
        "supported_apps": {},
        "network_data_format": {
            "inputs": {"image": plane | {
                "format": "magnitude", "modality": "US", "num_channels": 1,
                "channel_def": {"0": "grey"},
            }},
            "outputs": {"pred": said | {
                "format": "probabilities", "modality": "n/a", "num_channels": channels,
                "channel_def": {str(index): name for index, name in enumerate(names)},
            }},
        },
    }  # fmt: skip


def _description(config: EnsembleConfig) -> str:
    made = "trained in a federation of hospitals that shared weights and no images"
    many = len(config.members)
    if config.task == "classification":
        names = ", ".join(member.architecture for member in config.members)
        mean = "; their probabilities are averaged" if many > 1 else ""
        return f"{names}, {made}{mean}."
    if config.model.name is None:
        return f"{many} TransUNet branches, {made}, fused pixel by pixel by their confidence."
    return f"{many} networks of {config.model.name}, {made}, fused pixel by pixel."


def inference(config: EnsembleConfig) -> dict[str, Any]:
    """`configs/inference.json`: masks (or classes) of a folder of pictures with MONAI's own parts.

    `python -m monai.bundle run --config_file BUNDLE/configs/inference.json --dataset_dir DIR
    --output_dir OUT`. It finds its bundle by the search path that MONAI extends before it runs, or
    by the configuration's own path on the command line, which its other commands leave alone.
    """
    side, threshold = config.model.image_size, config.infusion.threshold
    classifies = config.task == "classification"
    loader = {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
              "load_dict": {"model": "@network"}, "map_location": "@device"}  # fmt: skip
    table = {"_target_": "ClassificationSaver", "output_dir": "@output_dir",
             "filename": "predictions.csv",
             "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
             "output_transform": "$lambda output: [item['pred'] for item in output]"}  # fmt: skip
    masks = [
        {"_target_": "common.bundle.transforms.Masks", "threshold": "@threshold"},
        {"_target_": "SaveImaged", "keys": "mask", "writer": "PILWriter",
         "output_dir": "@output_dir", "output_ext": ".png", "output_postfix": "mask",
         "output_dtype": "$'uint8'", "resample": False, "separate_folder": False},
    ]  # fmt: skip
    return {
        "imports": ["$import glob", "$import os", "$import sys", "$import torch"],
        "bundle_root": "$next((p for p in [*sys.path[1:], *(os.path.dirname(os.path.dirname("
                       "os.path.abspath(a.rpartition('=')[2]))) for a in sys.argv)] if "
                       "os.path.isfile(os.path.join(p, 'configs', 'ensemble.json'))), '.')",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": f"$@bundle_root + '/{'classes' if classifies else 'masks'}'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "side": side,
        "threshold": threshold,
        "datalist": "$[{'image': p} for p in sorted(glob.glob(os.path.join(@dataset_dir, '*'))) "
                    "if p.lower().endswith(('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp'))]",
        "network_def": {"_target_": "common.bundle.ensemble.network_def", "bundle": "@bundle_root"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "reader": "PILReader",
             "converter": "$lambda picture: picture.convert('L')",
             "image_only": True},
            {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
            {"_target_": "common.bundle.transforms.Squares", "side": "@side"},
        ]},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1,
                       "shuffle": False, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [] if classifies else masks},
        "handlers": [loader, table] if classifies else [loader],
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device",
                      "val_data_loader": "@dataloader", "network": "@network",
                      "inferer": "@inferer", "postprocessing": "@postprocessing",
                      "val_handlers": "@handlers"},
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def federation(
    study: Study,
    *,
    counts: Mapping[str, Mapping[str, float]],
    rounds: Mapping[str, int],
    weights_sha256: str,
    results: Results | None,
    ledgers: Mapping[str, Any],
    code: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """`configs/federation.json`: where the ensemble comes from. Names of sites, counts, digests.

    Args:
        study: The study.
        counts: Site to what it said of itself.
        rounds: Training to the rounds done.
        weights_sha256: Over the network's tensors.
        results: What was found, if it was evaluated.
        ledgers: How far the sites' ledgers had come.
        code: What ran, oldest first; more than one where the run went on with other code.
    """
    return {
        "version": VERSION,
        "study": study.name,
        "sites": {
            name: {"role": site.role, "counts": dict(counts.get(name, {}))}
            for name, site in study.sites.items()
        },
        "rounds": dict(rounds),
        "digests": {
            "study": study.digest,
            "weights": weights_sha256,
            "results": _results_digest(results),
        }
        | (dict(code[-1]) if code else {}),
        "code_before": [dict(told) for told in code[:-1]],
        "ledgers": dict(ledgers),
        "sonofed": _version("sonofed"),
        "seed": study.seed,
        "own_parts": list(study.own_parts),
    }


def _results_digest(results: Results | None) -> str:
    if results is None:
        return ""
    text = json.dumps(results.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def cell_result(config: EnsembleConfig, results: Results | None) -> CellResult | None:
    """What the run found of the bundle's one classifier; of a mean of several it found nothing."""
    if results is None or results.selection is None or len(config.members) != 1:
        return None
    wanted = (config.arm, config.budget, config.members[0].architecture)
    cells = results.selection.cells
    return next((c for c in cells if (c.arm, c.budget, c.architecture) == wanted), None)


def _metrics(config: EnsembleConfig, results: Results | None) -> dict[str, float]:
    """Means over the target sites, where they had references; of classifiers, over all images."""
    if config.task == "classification":
        cell = cell_result(config, results)
        pooled = cell.pooled if cell is not None else {}
        return {n: round(found.mean, 4) for n, found in pooled.items() if isfinite(found.mean)}
    arm = config.arm
    if results is None or arm not in results.arms:
        return {}
    return {
        f"mean_{name}": round(summary.mean, 4)
        for name, summary in results.arms[arm].targets.items()
        if "@" not in name
    }
