"""Segments everything at a path with a bundle, and says of each frame how far to believe it."""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.data.preprocess import square_image
from clients.data.unreadable import UnreadableError
from clients.predict.masks import Segmented, areas, entropy_confidence, segment
from clients.predict.precision import Precision
from clients.predict.runtimes import Answer, Runtime, RuntimeName, make_runtime
from clients.predict.sources import Shot, Source, find_sources
from clients.predict.writing import (
    MaskFormat,
    OverlayVideo,
    drawn,
    flat,
    write_map,
    write_png,
    write_seg_nrrd,
)
from common.bundle import files
from common.bundle.ensemble import EnsembleConfig, read_config
from common.bundle.reference import (
    Distance,
    Reference,
    describe,
    distance_of,
    mask_confidence,
    read_reference,
)
from common.errors import InputError

TABLE = "predictions.csv"
RECORD = "run.json"
COLUMNS = (
    "source", "frame", "class", "mask", "width", "height", "area_px", "area_mm2", "confidence",
    "flag", "grey", "feature", "doubt", "note",
)  # fmt: skip
WITHHOLDING = ("grey", "feature")
"""Flags of a frame unlike all training images: its mask would be a guess."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How to predict.

    Attributes:
        runtime: Who runs the network.
        precision: In which arithmetic.
        device: Where, for torch.
        masks: What masks are written as.
        maps: Also write probabilities and confidence.
        overlay: Also draw outlines; None: of clips only.
        draw_flagged: Write the masks of frames unlike the training images too.
        colour: Take coloured pictures as grey.
        calibrate: Images of the own device, for BatchNorm.
    """

    runtime: RuntimeName = "torch"
    precision: Precision = "int8"
    device: str = "cpu"
    masks: MaskFormat = "png"
    maps: bool = False
    overlay: bool | None = None
    draw_flagged: bool = False
    colour: bool = False
    calibrate: Path | None = None


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        frames: Segmented.
        flagged: Of these, flagged for anything.
        withheld: Of these, without a mask.
        refused: A sentence for each file or frame that could not be read.
        others: Files that are neither picture nor clip.
        seconds: From the first read to the last mask, without loading the network.
        digest: The bundle's.
        warnings: What to know beside.
    """

    frames: int = 0
    flagged: int = 0
    withheld: int = 0
    refused: list[str] = field(default_factory=list)
    others: int = 0
    seconds: float = 0.0
    digest: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def frames_per_second(self) -> float:
        """Reading, the square, the network, the way back and writing included."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def predict(
    bundle: Path,
    given: Path,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
) -> Outcome:
    """Segment all frames at a path; write masks, `predictions.csv` and `run.json`.

    Args:
        bundle: A bundle's folder; every file of it is held to its digest first.
        given: See `clients.predict.sources.find_sources`.
        out: New or empty folder, written beside its place and moved in.
        settings: See there.
        progress: Called with (done, all) after each frame.

    Raises:
        InputError: If the bundle has been changed or is newer, nothing is there to segment, not a
            single frame can be read, or `out` is not empty.
    """
    named = files.verify(bundle)
    config = read_config(bundle)
    sources, others = find_sources(given)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; name a new one")
    outcome = Outcome(others=others, digest=files.bundle_digest(bundle))
    runtime = _runtime(bundle, config, settings, outcome)
    job = _Job(config, read_reference(bundle, named), settings, runtime, outcome)
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
    return make_runtime(
        bundle, settings.runtime, settings.precision, device=settings.device, squares=squares
    )


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


class _Job:
    """One call of `predict`."""

    def __init__(
        self,
        config: EnsembleConfig,
        reference: Reference | None,
        settings: Settings,
        runtime: Runtime,
        outcome: Outcome,
    ) -> None:
        self.config = config
        self.reference = reference
        self.settings = settings
        self.runtime = runtime
        self.outcome = outcome
        self.rows: list[dict[str, str]] = []
        if reference is None:
            outcome.warnings.append(
                "the bundle carries no reference statistics: no frame is flagged as unlike training"
            )

    def run(self, sources: list[Source], out: Path, progress: Progress | None) -> None:
        """All sources; a file that cannot be read is told of and does not stop the others."""
        began = time.perf_counter()
        numbers: list[list[int]] = []
        for source in sources:
            try:
                numbers.append(source.frames())
            except UnreadableError as error:
                self._refuse(source, None, str(error))
                numbers.append([])
        total, done = sum(map(len, numbers)), 0
        for source, frames in zip(sources, numbers, strict=True):
            with _Written(self, source, frames, out) as written:
                for frame in frames:
                    try:
                        shot = source.shot(frame, colour=self.settings.colour)
                    except UnreadableError as error:
                        self._refuse(source, frame, str(error))
                    else:
                        self._frame(written, frame, shot)
                    done += 1
                    if progress is not None:
                        progress(done, total)
        self.outcome.seconds = time.perf_counter() - began
        with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def _frame(self, written: "_Written", frame: int, shot: Shot) -> None:
        square = square_image(shot.grey_hw, self.config.model.image_size)
        answer = self.runtime(square)
        distance = self._distance(square, answer)
        flags = distance.flags if distance else ()
        if not square.any():
            flags = ("empty", *flags)
        result = segment(answer.pred_CSS, shot, self.config.infusion.threshold)
        withheld = not self.settings.draw_flagged and any(
            flag in WITHHOLDING or flag == "empty" for flag in flags
        )
        file = written.add(frame, shot, result, withheld=withheld, flagged=bool(flags))
        self.outcome.frames += 1
        self.outcome.flagged += bool(flags)
        self.outcome.withheld += withheld
        self._tell(written.source, frame, shot, result, file, flags, distance)

    def _distance(self, square: NDArray[np.uint8], answer: Answer) -> Distance | None:
        if self.reference is None:
            return None
        sure = entropy_confidence(answer.pred_CSS)
        confidence = mask_confidence(answer.pred_CSS, sure, self.config.infusion.threshold)
        return distance_of(
            describe(square), answer.features_D.astype(np.float64), confidence, self.reference
        )

    def _tell(
        self,
        source: Source,
        frame: int,
        shot: Shot,
        result: Segmented,
        file: str,
        flags: tuple[str, ...],
        distance: Distance | None,
    ) -> None:
        counts = areas(result.labels_HW, self.config.channels)
        pixel_mm2 = shot.spacing_mm[0] * shot.spacing_mm[1] if shot.spacing_mm else None
        for index, (name, count) in enumerate(zip(self.config.class_names, counts, strict=True)):
            inside = result.labels_HW == index + 1
            where = inside if count else slice(None)
            fields: dict[str, object] = {
                "source": source.name,
                "frame": frame,
                "class": name,
                "mask": file,
                "width": shot.width,
                "height": shot.height,
                "area_px": count,
                "area_mm2": None if pixel_mm2 is None else float(count * pixel_mm2),
                "confidence": float(result.confidence_HW[where].mean()),
                "flag": " ".join(flags),
            }
            if distance is not None:
                fields |= {
                    "grey": distance.grey, "feature": distance.feature, "doubt": distance.confidence
                }  # fmt: skip
            self.rows.append(flat(fields))

    def _refuse(self, source: Source, frame: int | None, words: str) -> None:
        said = f"{source.path}: {words}"
        if said not in self.outcome.refused[-1:]:  # every frame of a coloured clip says the same
            self.outcome.refused.append(said)
        place = {"source": source.name, "frame": frame, "flag": "refused", "note": words}
        self.rows.append(flat(place))


class _Written:
    """The files of one source."""

    def __init__(self, job: _Job, source: Source, frames: list[int], out: Path) -> None:
        self.job, self.source, self.out = job, source, out
        self.several = len(frames) > 1
        wanted = job.settings.overlay
        self.draws = source.is_clip and self.several if wanted is None else wanted
        self.planes: list[NDArray[np.uint8]] = []
        self.spacing: tuple[float, float] | None = None
        self.video: OverlayVideo | None = None

    def __enter__(self) -> "_Written":
        return self

    def add(
        self, frame: int, shot: Shot, result: Segmented, *, withheld: bool, flagged: bool
    ) -> str:
        """Write what belongs to a frame; the mask file's name, "" where it is withheld."""
        stem = f"{self.source.name}_f{frame:05d}" if self.several else self.source.name
        settings, classes = self.job.settings, self.job.config.channels
        name = ""
        if settings.masks == "nrrd":
            # A withheld frame keeps its place in the volume, empty.
            shown = np.zeros_like(result.labels_HW) if withheld else result.labels_HW
            self.planes.append(shown)
            self.spacing = shot.spacing_mm
            name = "" if withheld else f"{self.source.name}.seg.nrrd"
        elif not withheld:
            name = f"{stem}_mask.png"
            write_png(self.out / name, result.labels_HW, classes)
        if settings.maps:
            for index, plane in enumerate(result.pred_CHW):
                ending = "" if classes == 1 else f"_{self.job.config.class_names[index]}"
                write_map(self.out / f"{stem}_probability{ending}.png", plane)
            write_map(self.out / f"{stem}_confidence.png", result.confidence_HW)
        if self.draws:
            self._draw(stem, shot, None if withheld else result.labels_HW, flagged)
        return name

    def _draw(
        self, stem: str, shot: Shot, labels_HW: NDArray[np.uint8] | None, flagged: bool
    ) -> None:
        from PIL import Image

        whole = np.zeros((shot.height, shot.width), shot.grey_hw.dtype)
        height, width = shot.grey_hw.shape
        whole[shot.top : shot.top + height, shot.left : shot.left + width] = shot.grey_hw
        picture = drawn(whole, labels_HW, flagged=flagged)
        if not self.several:
            Image.fromarray(picture).save(self.out / f"{stem}_overlay.png")
            return
        if self.video is None:
            path = self.out / f"{self.source.name}_overlay.mp4"
            self.video = OverlayVideo(path, self.source.frame_rate)
        self.video.add(picture)

    def __exit__(self, *_: object) -> None:
        if self.video is not None:
            self.video.close()
        if self.planes:
            sizes = {plane.shape for plane in self.planes}
            if len(sizes) == 1:
                path = self.out / f"{self.source.name}.seg.nrrd"
                names = self.job.config.class_names
                write_seg_nrrd(path, np.stack(self.planes), names, self.spacing)


def _write_record(path: Path, config: EnsembleConfig, settings: Settings, outcome: Outcome) -> None:
    """What it takes to say later where a mask came from."""
    record = {
        "bundle": outcome.digest,
        "study": config.study,
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
