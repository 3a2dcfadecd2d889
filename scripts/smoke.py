"""`sonofed simulate --smoke`: a study cut down until every stage takes one step of two images.

It shows that a study runs from end to end on this machine, with its own model, options and data;
its numbers mean nothing, and the run says so wherever it is shown.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clients.data.manifest import MANIFEST, Row
from clients.data.split import Split
from clients.phantom.probes import PROBES
from common.config.base import Table
from common.config.data import DataSpec
from common.config.stages import Rounds
from common.config.study import Phantom, Site, Study
from common.errors import InputError
from common.estimate import server_memory, training_memory
from common.memory import available_memory
from common.plan import make_plan
from scripts.dry_run import planned_rows

STAGES = (
    "mim", "contrastive", "finetune_mim", "finetune_contrastive", "lower", "upper", "adapt",
    "source_classifier", "diffusion", "sphere", "classify", "finetune_selected",
)  # fmt: skip
PAIR = 2
SIDE = 128
"""Pixels of a side in a study that only chooses images and classifies."""
WANTED = {"train": 2, "val": 1, "test": 2}
"""Images a site keeps: one batch of two, two for self-supervision with the validation image."""

COLUMNS = (
    "id", "image", "mask", "label", "patient", "video", "frame", "device", "group", "split",
    "synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class Smoke:
    """A study cut down.

    Attributes:
        study: What runs.
        stand_ins: Sites whose own data are not here; a phantom stands in.
        words: What was changed, for people.
    """

    study: Study
    stand_ins: tuple[str, ...]
    words: list[str]


def smoke_study(study: Study, data_root: Path) -> Smoke:
    """Cut a study down to one step of two images a stage, one round, one epoch.

    Args:
        study: The study.
        data_root: Folder that the sites' folders lie in.

    Returns:
        The study, marked `untrained`, with what was put in place of what is missing.
    """
    words = ["one step on 2 images a stage"]
    tables: dict[str, Rounds] = {
        stage: getattr(study, stage).model_copy(
            update={"rounds": 1, "epochs": 1, "steps": None, "batch": PAIR}
        )
        for stage in STAGES
    }
    chosen = _selection_tables(study, tables, words)
    model = study.model
    if model.weights and not Path(model.weights).is_file():
        words.append("random weights, as [model] weights names no file that is here")
        model = model.model_copy(update={"weights": ""})
        tables = {
            stage: table.model_copy(update={"from_weights": False})
            if hasattr(table, "from_weights")
            else table
            for stage, table in tables.items()
        }
    if not study.segmentation_arms and not study.representation and model.image_size > SIDE:
        # A choosing study repeats a training for each arm: at full size that takes half an hour.
        words.append(f"{SIDE} px in place of {model.image_size}")
        model = model.model_copy(update={"image_size": SIDE})
    compute = study.compute.model_copy(
        update={
            "batch": PAIR,
            "micro_batch": PAIR,
            "jobs": 1,
            "threads": 1,
        }
    )
    if compute.device != "cpu" and not torch.cuda.is_available():
        words.append(f"on the CPU, as there is no {compute.device} here")
        compute = compute.model_copy(update={"device": "cpu", "precision": "float32"})
    sites, stand_ins = _sites(study, data_root)
    if stand_ins:
        words.append(f"phantom images in place of the data of {', '.join(stand_ins)}")
    evaluate = study.evaluate.model_copy(
        update={"bootstrap": 100, "overlays": min(2, study.evaluate.overlays)}
    )
    changes = {
        **tables,
        **chosen,
        "name": f"{study.name[:58]}-smoke",
        "model": model,
        "compute": compute,
        "evaluate": evaluate,
        "sites": sites,
        "phantom": _phantom(study, sites),
    }
    small = study.model_copy(update=changes)
    if _too_large(small):
        words.append("plain SGD in place of the optimisers, whose states do not fit into memory")
        plain = {"optimizer": "sgd", "momentum": 0.0}
        small = small.model_copy(
            update={stage: getattr(small, stage).model_copy(update=plain) for stage in STAGES}
        )
    told = f"a smoke run ({'; '.join(words)}): its numbers say only that every stage runs"
    small = small.model_copy(update={"untrained": told})
    return Smoke(Study.model_validate(small.model_dump()), stand_ins, words)


def _selection_tables(
    study: Study, tables: dict[str, Rounds], words: list[str]
) -> dict[str, Table]:
    """The tables of what chooses images, cut down; `tables` takes what its stages need instead."""
    if not study.selection_arms:
        return {}
    diffusion: dict[str, object] = {"memorisation_samples": 8, "memorisation_threshold": 1.0}
    absent = study.diffusion.weights and not Path(study.diffusion.weights).is_dir()
    if study.diffusion.preset == "stable-diffusion" and absent:
        words.append("a tiny diffusion model, as [diffusion] weights names no folder that is here")
        diffusion |= {"preset": "tiny", "weights": ""}
    if study.diffusion.text_weights and not Path(study.diffusion.text_weights).is_dir():
        words.append("no text, as [diffusion] text_weights names no folder that is here")
        diffusion |= {"text": "none", "text_weights": ""}
    tables["diffusion"] = tables["diffusion"].model_copy(update=diffusion)
    tables["sphere"] = tables["sphere"].model_copy(update={"min_angle": 0.0, "min_rank": 1.0})
    missing = {
        name for name, file in study.source_classifier.weights.items() if not Path(file).is_file()
    }
    if missing:
        words.append(f"random weights for {', '.join(sorted(missing))}, whose files are not here")
        kept = {k: v for k, v in study.source_classifier.weights.items() if k not in missing}
        tables["source_classifier"] = tables["source_classifier"].model_copy(
            update={"weights": kept}
        )
    lpips = study.reconstruct.lpips_weights
    reconstruct: dict[str, object] = {"steps": min(2, study.reconstruct.steps)}
    if lpips and not Path(lpips).is_dir():
        words.append("no LPIPS, as its weights are not here")
        reconstruct["lpips_weights"] = ""
    words.append("one budget, all images of it annotated")
    one = study.classify.architectures[:1]
    if len(study.classify.architectures) > 1:
        # Every one of them has been built on the meta device before anything runs.
        words.append(f"{one[0]} alone of the classifiers")
    tables["classify"] = tables["classify"].model_copy(update={"architectures": one})
    return {
        "reconstruct": study.reconstruct.model_copy(update=reconstruct),
        "score": study.score.model_copy(update={"clusters": 2, "restarts": 2, "iterations": 2}),
        "select": study.select.model_copy(
            update={"budgets": (1.0,), "ablation_budgets": (1.0,), "dropout_samples": 2,
                    "vaal_epochs": 1}
        ),
        "annotate": study.annotate.model_copy(update={"labels": "hidden"}),
    }  # fmt: skip


def smoke_data(
    smoke: Smoke, data_root: Path, phantom_root: Path | None, folder: Path
) -> dict[str, DataSpec]:
    """Give every site a manifest of its own with the few images that a smoke run needs.

    The files are linked, not copied; the splits are the study's own.

    Args:
        smoke: The study.
        data_root: Folder that the sites' folders lie in.
        phantom_root: Folder of the phantom's probes.
        folder: The run folder: a manifest lies in its site's folder there.

    Raises:
        InputError: With the problems of all sites' manifests.
    """
    study, problems = smoke.study, []
    specs = {}
    for name, site in study.sites.items():
        root = phantom_root if site.probe and phantom_root else data_root
        # A phantom is read from disk here, not planned: its files are what is linked.
        plain = site.model_copy(update={"folder": site.folder or site.probe, "probe": None})
        try:
            rows, split = planned_rows(name, plain, study, root)
        except InputError as error:
            problems += error.problems
            continue
        place = (folder / "sites" / name / "smoke").resolve()
        classes = len(study.classes) if site.probe else 0
        _write(place, _pick(rows, split, study), "phantom" if site.probe else "", classes)
        specs[name] = DataSpec(folder=str(place), reader=site.reader)
    if problems:
        raise InputError(problems)
    return specs


def _sites(study: Study, data_root: Path) -> tuple[dict[str, Site], tuple[str, ...]]:
    """The sites, each with a probe in place of a folder that is not here."""
    free = [probe for probe in PROBES if probe not in {s.probe for s in study.sites.values()}]
    probes = free or list(PROBES)
    sites: dict[str, Site] = {}
    stand_ins: list[str] = []
    for name, site in study.sites.items():
        if site.probe or (data_root / site.spec().folder / MANIFEST).exists():
            sites[name] = site
            continue
        sites[name] = Site(role=site.role, probe=probes[len(stand_ins) % len(probes)])
        stand_ins.append(name)
    return sites, tuple(stand_ins)


def _phantom(study: Study, sites: dict[str, Site]) -> Phantom | None:
    """Few small frames, where any site is synthetic."""
    if not any(site.probe for site in sites.values()):
        return None
    breast = any(word in study.name.lower() for word in ("breast", "bus"))
    anatomy = study.phantom.anatomy if study.phantom else "breast" if breast else "wrist"
    side = max(32, min(study.model.image_size, 128))
    patients = 16 if study.selection_arms else 5  # both labels in every part
    return Phantom(anatomy=anatomy, patients=patients, sweeps=1, frames=2, side=side)


def _too_large(study: Study) -> bool:
    plan = make_plan(study)
    largest = max((training_memory(study, t).total for t in plan.trainings.values()), default=0)
    return largest + server_memory(study, plan) > available_memory()


def _pick(rows: Sequence[Row], split: Split, study: Study) -> list[tuple[Row, str]]:
    """The first rows of each part, of different patients where there are; masked ones first."""
    if study.selection_arms:
        return _of_every_label(rows, study)
    picked = []
    for side, count in WANTED.items():
        part = [rows[i] for i in getattr(split, side)]
        # Retrieval needs frames of one video beside those of another.
        wanted, spread = (8, False) if study.representation and side == "test" else (count, True)
        if not study.representation and any(row.mask for row in part):
            part = [row for row in part if row.mask]
        chosen: list[Row] = []
        seen: set[str] = set()
        for row in part:
            if len(chosen) < wanted and not (spread and _unit(row) in seen):
                chosen.append(row)
                seen.add(_unit(row))
        chosen += [row for row in part if row not in chosen][: max(0, wanted - len(chosen))]
        picked += [(row, side) for row in chosen]
    return picked


def _of_every_label(rows: Sequence[Row], study: Study) -> list[tuple[Row, str]]:
    """Two images of every label in every part, whatever the study's split: classifiers need it."""
    picked = []
    taken: set[str] = set()
    for label in study.labels:
        own: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: row.mask is None):
            if row.label == label and _unit(row) not in taken:
                own.setdefault(_unit(row), row)
        taken |= set(own)
        parts = [side for side in WANTED for _ in range(PAIR)]
        picked += list(zip(own.values(), parts, strict=False))
    return picked


def _unit(row: Row) -> str:
    """What must stay on one side of a split."""
    return row.patient or row.group or row.video or row.id


def _write(place: Path, rows: list[tuple[Row, str]], synthetic: str, classes: int) -> None:
    """Write a manifest over links to the images (and masks) of a few rows."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, (row, side) in enumerate(rows):
            image = _link(place, f"image-{number}", row.image)
            mask = ""
            if row.mask is not None and classes:
                mask = _labelled(place, f"mask-{number}.png", row.mask, classes)
            elif row.mask is not None:
                mask = _link(place, f"mask-{number}", row.mask)
            frame = "" if row.frame is None else str(row.frame)
            writer.writerow((
                row.id, image, mask, row.label, row.patient, row.video, frame, row.device,
                row.group, side, synthetic,
            ))  # fmt: skip


def _link(place: Path, stem: str, target: Path) -> str:
    link = place / f"{stem}{target.suffix}"
    if not link.is_symlink():
        link.symlink_to(target.resolve())
    return link.name


def _labelled(place: Path, name: str, mask: Path, classes: int) -> str:
    """A phantom's binary mask as a label mask: its foreground cut into as many strips."""
    binary = np.asarray(Image.open(mask)) > 127
    strips = 1 + np.arange(binary.shape[1]) * classes // binary.shape[1]
    Image.fromarray((binary * strips).astype(np.uint8)).save(place / name)
    return name
