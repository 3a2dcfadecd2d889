"""A bundle that segments: masks in the original geometry, areas, maps, overlays."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.predict.job import DISTANCES, PLACE, Job, Seen
from clients.predict.masks import Segmented, areas, entropy_confidence, segment
from clients.predict.runtimes import Answer
from clients.predict.sources import Shot, Source
from clients.predict.writing import (
    OverlayVideo,
    drawn,
    write_map,
    write_png,
    write_seg_nrrd,
)
from common.bundle.reference import mask_confidence


class Segmenting(Job):
    """Masks."""

    columns = (
        *PLACE, "class", "mask", "width", "height", "area_px", "area_mm2", "confidence", "flag",
        *DISTANCES, "note",
    )  # fmt: skip

    def confidence(self, answer: Answer) -> float:
        """Mean confidence over the mask; over all pixels where there is none."""
        sure = entropy_confidence(answer.pred_CSS)
        return mask_confidence(answer.pred_CSS, sure, self.config.infusion.threshold)

    def opened(self, source: Source, frames: list[int], out: Path) -> "_Written":
        """Masks, maps and overlays of one source."""
        return _Written(self, source, frames, out)

    def tell(self, source: Source, seen: Seen, files: Any) -> None:
        """A row for each class, and the frame's files."""
        shot = seen.shot
        result = segment(seen.answer.pred_CSS, shot, self.config.infusion.threshold)
        mask = files.add(seen, result)
        counts = areas(result.labels_HW, self.config.channels)
        pixel_mm2 = shot.spacing_mm[0] * shot.spacing_mm[1] if shot.spacing_mm else None
        for index, (name, count) in enumerate(zip(self.config.class_names, counts, strict=True)):
            inside = result.labels_HW == index + 1
            where = inside if count else slice(None)
            fields: dict[str, object] = {
                "class": name,
                "mask": mask,
                "width": shot.width,
                "height": shot.height,
                "area_px": count,
                "area_mm2": None if pixel_mm2 is None else float(count * pixel_mm2),
                "confidence": float(result.confidence_HW[where].mean()),
            }
            self.add(source, seen, **fields)


class _Written:
    """The files of one source."""

    def __init__(self, job: Segmenting, source: Source, frames: list[int], out: Path) -> None:
        self.job, self.source, self.out = job, source, out
        self.several = len(frames) > 1
        wanted = job.settings.overlay
        self.draws = source.is_clip and self.several if wanted is None else wanted
        self.planes: list[NDArray[np.uint8]] = []
        self.spacing: tuple[float, float] | None = None
        self.video: OverlayVideo | None = None

    def __enter__(self) -> "_Written":
        return self

    def add(self, seen: Seen, result: Segmented) -> str:
        """Write what belongs to a frame; the mask file's name, "" where it is withheld."""
        stem = f"{self.source.name}_f{seen.frame:05d}" if self.several else self.source.name
        shot, withheld = seen.shot, seen.withheld
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
            self._draw(stem, shot, None if withheld else result.labels_HW, bool(seen.flags))
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
