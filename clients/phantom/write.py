"""Synthetic sites on disk: one folder a probe, each with its own patients and manifest."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from clients.phantom.anatomy import ANATOMIES
from clients.phantom.probes import PROBES
from clients.phantom.render import Camera
from common.errors import InputError

VERSION = "phantom v1"
COLUMNS = (
    "id", "image", "mask", "label", "patient", "video", "frame", "device", "group", "split",
    "synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class Video:
    """One sweep to draw: all that its bytes depend on."""

    folder: Path
    anatomy: str
    probe: str
    patient: int
    sweep: int
    frames: int
    side: int
    seed: int


def patient_name(probe: str, number: int) -> str:
    """Patients belong to one probe: no two sites share one."""
    return f"{probe}-p{number:04d}"


def draw(video: Video) -> list[tuple[str, ...]]:
    """Draws one sweep into its folder and returns its manifest rows, in `COLUMNS` order."""
    patient = patient_name(video.probe, video.patient)
    names = (video.seed, video.anatomy, patient)
    anatomy = ANATOMIES[video.anatomy](names, video.sweep)
    camera = Camera(PROBES[video.probe], (*names, video.sweep), names, video.side)
    name = f"{patient}-s{video.sweep}"
    rows: list[tuple[str, ...]] = []
    for frame in range(video.frames):
        picture, mask = camera.shoot(anatomy, frame)
        stem = f"{name}-f{frame:03d}"
        grey = np.rint(picture * 255).astype(np.uint8)
        for kind, pixels in (("images", grey), ("masks", mask.astype(np.uint8) * np.uint8(255))):
            path = video.folder / video.probe / kind / f"{stem}.png"
            Image.fromarray(pixels).save(path, compress_level=3)
        rows.append((
            stem, f"images/{stem}.png", f"masks/{stem}.png", anatomy.label, patient, name,
            str(frame), PROBES[video.probe].device, "", "", VERSION,
        ))  # fmt: skip
    return rows


def generate(
    folder: Path,
    *,
    anatomy: Literal["wrist", "breast"],
    probes: Sequence[str],
    patients: int,
    sweeps: int = 1,
    frames: int = 8,
    side: int = 224,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Writes one synthetic site per probe: ``<folder>/<probe>/index.csv``, images and masks.

    The same settings give the same bytes, whatever ``jobs`` is; a patient's first frames are the
    same when more frames, sweeps or patients are asked, and a probe's files do not depend on the
    other probes. A folder that already holds this very phantom is left alone.

    Args:
        folder: where the probes' folders go; created, and complete or absent afterwards.
        anatomy: ``wrist`` (bone surface) or ``breast`` (lesion).
        probes: names in `PROBES`.
        patients: patients per probe; different people on each probe.
        sweeps: videos per patient.
        frames: frames per video.
        side: pixels of the square pictures.
        seed: of everything drawn.
        jobs: processes that draw.
        progress: called with (videos done, videos in all).

    Returns:
        The folder of each probe.

    Raises:
        InputError: settings that make no sense, or a folder that holds something else.
    """
    folder = Path(folder)
    settings = {
        "phantom": VERSION, "anatomy": anatomy, "probes": list(probes), "patients": patients,
        "sweeps": sweeps, "frames": frames, "side": side, "seed": seed,
    }  # fmt: skip
    _check(settings, jobs)
    sites = {probe: folder / probe for probe in probes}
    if _there(folder, settings):
        return sites
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        _fill(partial, settings, jobs, progress)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: the phantom could not be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sites


def _check(settings: dict[str, object], jobs: int) -> None:
    problems = []
    if settings["anatomy"] not in ANATOMIES:
        known = ", ".join(ANATOMIES)
        problems.append(f"anatomy {settings['anatomy']!r} is unknown; there are {known}")
    probes = settings["probes"]
    assert isinstance(probes, list)
    if not probes:
        problems.append(f"no probe named; there are {', '.join(PROBES)}")
    problems += [
        f"probe {probe!r} is unknown; there are {', '.join(PROBES)}"
        for probe in probes
        if probe not in PROBES
    ]
    if len(set(probes)) < len(probes):
        problems.append("a probe is named twice")
    least = {"patients": 1, "sweeps": 1, "frames": 1, "side": 32, "seed": 0, "jobs": 1}
    for key, minimum in least.items():
        value = {**settings, "jobs": jobs}[key]
        if not isinstance(value, int) or value < minimum:
            problems.append(f"{key} is {value}; it must be a whole number of at least {minimum}")
    if problems:
        raise InputError(problems)


def _there(folder: Path, settings: dict[str, object]) -> bool:
    """Whether this very phantom is already there; InputError if something else is."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; the phantom needs a folder")
    note = folder / "phantom.json"
    if not note.exists():
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no phantom; name another folder")
        return False
    try:
        found = json.loads(note.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{note} is not readable as JSON; name another folder")
    if found != settings:
        differing = [
            f"{key} is {found.get(key)!r} there and {value!r} here"
            for key, value in settings.items()
            if found.get(key) != value
        ]
        raise InputError(
            f"{folder} holds another phantom ({'; '.join(differing)}); name another folder"
        )
    return True


def _fill(
    partial: Path,
    settings: dict[str, object],
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draws all videos, then writes the manifests and the settings."""
    probes = settings["probes"]
    assert isinstance(probes, list)
    for probe in probes:
        for kind in ("images", "masks"):
            (partial / probe / kind).mkdir(parents=True)
    number = {key: int(str(settings[key])) for key in ("patients", "sweeps", "frames", "side",
                                                       "seed")}  # fmt: skip
    videos = [
        Video(partial, str(settings["anatomy"]), probe, patient, sweep, number["frames"],
              number["side"], number["seed"])
        for probe in probes
        for patient in range(number["patients"])
        for sweep in range(number["sweeps"])
    ]  # fmt: skip
    rows: dict[str, list[tuple[str, ...]]] = {probe: [] for probe in probes}
    for done, (video, found) in enumerate(zip(videos, _drawn(videos, jobs), strict=True), 1):
        rows[video.probe] += found
        if progress is not None:
            progress(done, len(videos))
    for probe in probes:
        with (partial / probe / "index.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows[probe])
    (partial / "phantom.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _drawn(videos: list[Video], jobs: int) -> Iterator[list[tuple[str, ...]]]:
    """The rows of every video, in order, drawn by ``jobs`` processes."""
    if jobs == 1 or len(videos) == 1:
        yield from map(draw, videos)
        return
    # Spawned, not forked: the caller may hold threads (torch) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(videos)), mp_context=context) as pool:
        yield from pool.map(draw, videos, chunksize=max(1, len(videos) // (8 * jobs)))
