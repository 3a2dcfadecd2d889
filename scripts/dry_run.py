"""`sonofed simulate --dry-run`: every stage on the meta device; nothing is read but manifests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from clients.data.manifest import Row, read_manifest
from clients.data.split import Split, split_rows
from clients.phantom.probes import PROBES
from clients.phantom.write import patient_name
from clients.site import POOL_STAGES
from common.config.data import SplitConfig
from common.config.study import Phantom, Site, Study
from common.errors import InputError
from common.estimate import (
    Bytes,
    evaluation_traffic,
    fitting_jobs,
    micro_batch,
    selection_traffic,
    server_memory,
    steps,
    training_memory,
    training_traffic,
)
from common.plan import Plan, Training, make_plan
from scripts.live import say, show
from scripts.machine import memory_for, on_card

UNMASKED = ("source_classifier", "diffusion")
"""Stages that train on the training images whether they have masks or not."""


@dataclass(frozen=True)
class Counts:
    """Images of a site that a stage can train on.

    Attributes:
        pool: All but the test images: for self-supervision, and to select from.
        train: The training images.
        masked: Those of them with a mask.
    """

    pool: int
    train: int
    masked: int

    def of(self, training: Training) -> int:
        """Images that a training has at this site; of a selection, as if it fell evenly."""
        if training.selection:
            return math.ceil(training.budget * self.pool)
        if training.stage in POOL_STAGES:
            return self.pool
        return self.train if training.stage in UNMASKED else self.masked


@dataclass(frozen=True)
class Line:
    """One training of the table."""

    training: Training
    parameters: int
    memory: int
    activations: int | None
    steps: dict[str, int]
    traffic: Bytes


def dry_run(study: Study, data_root: Path) -> None:
    """Show what every training would take; writes nothing and decodes no image.

    Args:
        study: The study.
        data_root: Folder that the sites' folders lie in; may be absent.
    """
    plan = make_plan(study)
    counts, absent = site_counts(study, data_root)
    lines = [describe(study, training, counts) for training in plan.trainings.values()]
    show(_table(study, lines))
    evaluation, selection = evaluation_traffic(study, plan), selection_traffic(study, plan)
    total = sum(moved(part) for part in (*(line.traffic for line in lines), evaluation, selection))
    sites = {
        site: sum(
            _of_site(part, site) for part in (*(x.traffic for x in lines), evaluation, selection)
        )
        for site in study.sites
    }
    if plan.arms:
        say(
            f"evaluation: {len(plan.predictors)} members, {moved(evaluation) / 1e6:,.1f} MB to move"
        )
    if plan.selections or plan.cells:
        say(_selection_words(study, plan, counts, moved(selection)))
    each = ", ".join(f"{site} {number / 1e6:,.1f}" for site, number in sites.items())
    say(f"MB to move in all: {total / 1e6:,.1f} ({each})")
    for line in _memory_words(study, plan):
        say(line)
    for site, why in absent.items():
        say(f"{site}: steps are unknown: {why}")


def _selection_words(study: Study, plan: Plan, counts: Mapping[str, Counts], bytes_: int) -> str:
    """What is chosen from, by whom, and how many classifiers are judged."""
    known = [counts[site].pool for site in study.targets if site in counts]
    pool = f"{sum(known):,} images" if len(known) == len(study.targets) else "unknown images"
    redrawn = f", each redrawn in {study.reconstruct.steps} steps" if plan.reconstructing else ""
    return (
        f"selection: a pool of {pool}{redrawn}, {len(plan.selections)} selections, "
        f"{len(plan.cells)} classifiers to judge, at most {bytes_ / 1e6:,.1f} MB to move"
    )


def describe(study: Study, training: Training, counts: Mapping[str, Counts]) -> Line:
    """One training's line."""
    memory = training_memory(study, training)
    rows = {site: count.of(training) for site, count in counts.items()}
    return Line(
        training,
        memory.parameters,
        memory.total,
        memory.activations,
        steps(study, training, rows),
        training_traffic(study, training),
    )


def moved(traffic: Bytes) -> int:
    """Bytes of all sites, both ways."""
    return sum(way["down"] + way["up"] for way in traffic.values())


def site_counts(study: Study, data_root: Path) -> tuple[dict[str, Counts], dict[str, str]]:
    """Training images by site, and why they are not known where they are not."""
    counts, absent = {}, {}
    for name, site in study.sites.items():
        try:
            rows, split = planned_rows(name, site, study, data_root)
        except InputError as error:
            absent[name] = error.problems[0]
            continue
        masked = np.array([row.mask is not None for row in rows], dtype=bool)
        train = len(split.train)
        counts[name] = Counts(train + len(split.val), train, int(masked[split.train].sum()))
    return counts, absent


def planned_rows(name: str, site: Site, study: Study, data_root: Path) -> tuple[list[Row], Split]:
    """A site's rows and split: from its manifest, or as the phantom would draw them.

    Raises:
        InputError: If the manifest is missing or not sound.
    """
    spec = site.spec()
    if site.probe and study.phantom is not None:
        rows = _phantom_rows(study.phantom, site.probe)
    else:
        rows = read_manifest(data_root / spec.folder, spec)
    config: SplitConfig = study.split
    split = split_rows(rows, config, site=name, test=spec.test, columns=spec.columns)
    return rows, split


def _phantom_rows(phantom: Phantom, probe: str) -> list[Row]:
    if probe not in PROBES:
        raise InputError(f"probe {probe!r} is unknown; there are {', '.join(PROBES)}")
    rows: list[Row] = []
    for number in range(phantom.patients):
        patient = patient_name(probe, number)
        for sweep in range(phantom.sweeps):
            for frame in range(phantom.frames):
                name = f"{patient}-s{sweep}-f{frame:03d}"
                rows.append(
                    Row(
                        name,
                        Path(name),
                        mask=Path(name),
                        patient=patient,
                        video=f"{patient}-s{sweep}",
                        frame=frame,
                        number=len(rows) + 2,
                    )
                )
    return rows


def _of_site(traffic: Bytes, site: str) -> int:
    return sum(traffic.get(site, {}).values())


def _table(study: Study, lines: list[Line]) -> Table:
    table = Table(
        title=f"{study.name} · seed {study.seed} · "
        + (f"{study.model.preset} at " if study.segmentation_arms else "")
        + f"{study.model.image_size} px · digest {study.digest[:8]}",
        title_justify="left",
    )
    left = ("training", "sites")
    for name in (
        *left, "parameters", "memory GB", "rounds x epochs", "batch", "steps a site", "MB a site",
        "MB",
    ):  # fmt: skip
        table.add_column(
            name,
            justify="left" if name in left else "right",
            overflow="fold",
            no_wrap=name in ("parameters", "memory GB"),
        )
    for number, line in _grouped(lines):
        training = line.training
        batch = training.settings.batch or study.compute.batch
        micro = micro_batch(study, training)
        views = 2 * batch if training.stage == "contrastive" else batch
        table.add_row(
            training.key if number == 1 else f"{number} x .../{'/'.join(_tail(training))}",
            ", ".join(training.participants),
            f"{line.parameters:,}",
            f"{line.memory / 1e9:.1f}" + ("+?" if line.activations is None else ""),
            f"{training.settings.rounds} x "
            + (
                f"{training.settings.steps} steps"
                if training.settings.steps
                else str(training.settings.epochs)
            ),
            str(batch) if micro >= views else f"{batch} ({micro} at once)",
            _steps(line),
            f"{max(map(sum, (w.values() for w in line.traffic.values()))) / 1e6:,.1f}",
            f"{number * moved(line.traffic) / 1e6:,.1f}",
        )
    return table


def _tail(training: Training) -> list[str]:
    """Of a training on selected images, its key without arm and budget."""
    parts = training.key.split("/")
    return parts[1:] if training.stage == "finetune_selected" else parts[2:]


def _grouped(lines: list[Line]) -> list[tuple[int, Line]]:
    """Trainings on selected images that differ in arm and budget only are one line, the largest."""
    found: dict[str, tuple[int, Line]] = {}
    for line in lines:
        training = line.training
        key = "/".join(_tail(training)) if training.selection else training.key
        number, largest = found.get(key, (0, line))
        larger = sum(line.steps.values()) > sum(largest.steps.values())
        found[key] = (number + 1, line if larger else largest)
    return list(found.values())


def _steps(line: Line) -> str:
    """Steps of each site; one number where all sites do the same."""
    told = [f"{line.steps[s]:,}" if s in line.steps else "?" for s in line.training.participants]
    return told[0] if len(set(told)) == 1 else ", ".join(told)


def _memory_words(study: Study, plan: Plan) -> list[str]:
    available = memory_for(study)
    jobs = fitting_jobs(study, plan, available, study.compute.jobs)
    where = "on the card" if on_card(study) else "free here"
    words = [
        "memory is an estimate of one site at work: weights, gradients, optimiser, the activations "
        "of one micro-batch, messages, and 0.75 GB of libraries (common/estimate.py); the server "
        f"takes {server_memory(study, plan) / 1e9:.1f} GB beside it",
        f"{available / 1e9:.1f} GB are {where}: {jobs} of [compute] jobs = {study.compute.jobs} "
        "sites would work at the same time; jobs never exceed the estimate",
    ]
    largest = max((training_memory(study, t).total for t in plan.trainings.values()), default=0)
    if largest > available:
        words.append(
            f"one site at work needs more than that ({largest / 1e9:.1f} GB): lower [compute] "
            "micro_batch or batch"
        )
    return words
