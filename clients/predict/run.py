"""Says what a bundle sees in everything at a path, and of each frame how far to believe it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.data.preprocess import square_image
from clients.data.unreadable import UnreadableError
from clients.predict.classifying import Classifying, check_settings
from clients.predict.job import Outcome, Progress, Settings
from clients.predict.precision import Precision
from clients.predict.runtimes import Runtime, make_runtime
from clients.predict.segmenting import Segmenting
from clients.predict.sources import find_sources
from common.bundle import files
from common.bundle.ensemble import EnsembleConfig, read_config
from common.bundle.reference import read_reference
from common.errors import InputError

__all__ = ["Outcome", "Progress", "Settings", "calibration_squares", "predict"]

RECORD = "run.json"


def predict(
    bundle: Path,
    given: Path,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
) -> Outcome:
    """Segment or classify all frames at a path; write masks, `predictions.csv` and `run.json`.

    Args:
        bundle: A bundle's folder; every file of it is held to its digest first.
        given: See `clients.predict.sources.find_sources`.
        out: New or empty folder, written beside its place and moved in.
        settings: See there.
        progress: Called with (done, all) after each frame.

    Raises:
        InputError: If the bundle has been changed or is newer, no frame is there, not a single one
            can be read, or `out` is not empty.
    """
    named = files.verify(bundle)
    config = read_config(bundle)
    classifies = config.task == "classification"
    if classifies:
        check_settings(settings)
    settings = replace(settings, precision=settings.precision or _quickest(config, settings))
    sources, others = find_sources(given)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; name a new one")
    outcome = Outcome(others=others, digest=files.bundle_digest(bundle))
    runtime = _runtime(bundle, config, settings, outcome)
    kind = Classifying if classifies else Segmenting
    job = kind(config, read_reference(bundle, named), settings, runtime, outcome)
    part = out.with_name(f".{out.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        job.run(sources, part, progress)
        if not outcome.frames:
            raise InputError(outcome.refused)
        _write_record(part / RECORD, config, settings, outcome)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return outcome


def _runtime(bundle: Path, config: EnsembleConfig, settings: Settings, outcome: Outcome) -> Runtime:
    squares = None
    if settings.calibrate is not None:
        squares = list(calibration_squares(settings.calibrate, config.model.image_size))
    elif config.calibration == "required":
        raise InputError(
            f"{bundle}: holds no BatchNorm statistics (FedBN); --calibrate FOLDER takes them from "
            "images of your own device"
        )
    elif config.calibration == "advised":
        outcome.warnings.append(
            "the bundle's BatchNorm statistics are the mean over the study's devices; "
            "--calibrate FOLDER fits them to images of yours"
        )
    assert settings.precision is not None
    return make_runtime(
        bundle, settings.runtime, settings.precision, device=settings.device, squares=squares
    )


def _quickest(config: EnsembleConfig, settings: Settings) -> Precision:
    """int8 where it is faithful and this machine has it: the transformers of what segments."""
    on_cpu = settings.runtime == "torch" and settings.device.startswith("cpu")
    able = "onednn" in torch.backends.quantized.supported_engines
    return "int8" if on_cpu and able and config.task == "segmentation" else "fp32"


def calibration_squares(folder: Path, side: int) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a folder as the network sees it.

    Raises:
        InputError: If one of them cannot be read.
    """
    sources, _ = find_sources(folder)
    for source in sources:
        try:
            for frame in source.frames():
                yield square_image(source.shot(frame).grey_hw, side)
        except UnreadableError as error:
            raise InputError(f"{source.path}: {error}") from None


def _write_record(path: Path, config: EnsembleConfig, settings: Settings, outcome: Outcome) -> None:
    """What it takes to say later where a mask came from."""
    record = {
        "bundle": outcome.digest,
        "study": config.study,
        "task": config.task,
        "arm": config.arm,
        "runtime": settings.runtime,
        "precision": settings.precision,
        "device": settings.device,
        "calibrated": settings.calibrate is not None,
        "threshold": config.infusion.threshold,
        "frames": outcome.frames,
        "flagged": outcome.flagged,
        "withheld": outcome.withheld,
        "refused": len(outcome.refused),
    }
    files.write_json(path, record)
