"""What every job of `sonofed predict` does: reading, flags, the table."""

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.preprocess import square_image
from clients.data.unreadable import UnreadableError
from clients.predict.precision import Precision
from clients.predict.runtimes import Answer, Runtime, RuntimeName
from clients.predict.sources import Shot, Source
from clients.predict.writing import MaskFormat, flat
from common.bundle.ensemble import EnsembleConfig
from common.bundle.reference import Distance, Reference, describe, distance_of

TABLE = "predictions.csv"
PLACE = ("source", "frame")
DISTANCES = ("grey", "feature", "doubt")
WITHHOLDING = ("grey", "feature", "empty")
"""Flags of a frame unlike all training images: what would be said of it would be a guess."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How to predict.

    Attributes:
        runtime: Who runs the network.
        precision: In which arithmetic; None: the quickest that is faithful.
        device: Where, for torch.
        masks: What masks are written as.
        maps: Also write probabilities and confidence.
        overlay: Also draw outlines; None: of clips only.
        draw_flagged: Say what is seen in frames unlike the training images too.
        colour: Take coloured pictures as grey.
        calibrate: Images of the own device, for BatchNorm.
    """

    runtime: RuntimeName = "torch"
    precision: Precision | None = None
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
        withheld: Of these, without a mask or class.
        refused: A sentence for each file or frame that could not be read.
        others: Files that are neither picture nor clip.
        seconds: From the first read to the last write, without loading the network.
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


@dataclass(frozen=True)
class Seen:
    """A frame that has been looked at.

    Attributes:
        frame: Its number.
        shot: The frame.
        answer: What the network said.
        flags: Why not to believe it.
        distance: To the sites' images; None without reference statistics.
        withheld: Whether it stays unsaid.
    """

    frame: int
    shot: Shot
    answer: Answer
    flags: tuple[str, ...]
    distance: Distance | None
    withheld: bool

    @property
    def told(self) -> dict[str, object]:
        """Flags and distances as the table has them."""
        fields: dict[str, object] = {"flag": " ".join(self.flags)}
        if self.distance is not None:
            fields |= {
                "grey": self.distance.grey, "feature": self.distance.feature,
                "doubt": self.distance.confidence,
            }  # fmt: skip
        return fields


class Job(ABC):
    """One call of `predict`.

    Args:
        config: The bundle's.
        reference: Its reference statistics, if it carries any.
        settings: How.
        runtime: Who runs the network.
        outcome: Filled here.
    """

    columns: tuple[str, ...]
    """Of the table."""

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

    @abstractmethod
    def confidence(self, answer: Answer) -> float:
        """How sure the network is of what it says, in [0, 1]."""

    @abstractmethod
    def tell(self, source: Source, seen: Seen, files: Any) -> None:
        """Add a frame's rows to the table, and write what belongs to it."""

    def opened(self, source: Source, frames: list[int], out: Path) -> AbstractContextManager[Any]:
        """The files that grow while a source's frames are told."""
        return nullcontext()

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
            with self.opened(source, frames, out) as files:
                for frame in frames:
                    try:
                        shot = source.shot(frame, colour=self.settings.colour)
                    except UnreadableError as error:
                        self._refuse(source, frame, str(error))
                    else:
                        self.tell(source, self._see(frame, shot), files)
                    done += 1
                    if progress is not None:
                        progress(done, total)
        self.outcome.seconds = time.perf_counter() - began
        with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def add(self, source: Source, seen: Seen, **fields: object) -> None:
        """A row of the table."""
        place = {"source": source.name, "frame": seen.frame}
        self.rows.append(flat({**place, **fields, **seen.told}))

    def _see(self, frame: int, shot: Shot) -> Seen:
        square = square_image(shot.grey_hw, self.config.model.image_size)
        answer = self.runtime(square)
        distance = self._distance(square, answer)
        flags = distance.flags if distance else ()
        if not square.any():
            flags = ("empty", *flags)
        withheld = not self.settings.draw_flagged and any(flag in WITHHOLDING for flag in flags)
        self.outcome.frames += 1
        self.outcome.flagged += bool(flags)
        self.outcome.withheld += withheld
        return Seen(frame, shot, answer, flags, distance, withheld)

    def _distance(self, square: NDArray[np.uint8], answer: Answer) -> Distance | None:
        if self.reference is None:
            return None
        features_D = answer.features_D.astype(np.float64)
        return distance_of(describe(square), features_D, self.confidence(answer), self.reference)

    def _refuse(self, source: Source, frame: int | None, words: str) -> None:
        said = f"{source.path}: {words}"
        if said not in self.outcome.refused[-1:]:  # every frame of a coloured clip says the same
            self.outcome.refused.append(said)
        place = {"source": source.name, "frame": frame, "flag": "refused", "note": words}
        self.rows.append(flat(place))
