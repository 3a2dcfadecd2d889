"""What may be segmented: a picture, a folder, a manifest, a DICOM ultrasound, a video.

Legend: H, W = the original frame's height and width; h, w = those of what is shown of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clients.data import dicom, video
from clients.data.manifest import MANIFEST, read_manifest
from clients.data.readers import (
    FORMATS,
    SUFFIXES,
    UnreadableError,
    coloured,
    plain_words,
    read_pillow,
)
from common.config.data import DataSpec
from common.errors import InputError

COLOURED = 0.3
"""Share of visibly coloured pixels from which a picture is no grey ultrasound."""


@dataclass(frozen=True)
class Shot:
    """One frame.

    Attributes:
        grey_hw: What the network may see: uint8, uint16 or float in [0, 1]; of a DICOM, what lies
            in its ultrasound regions.
        top: Row of the original at which it begins.
        left: Column of the original at which it begins.
        height: H.
        width: W.
        spacing_mm: Millimetres a pixel (down, across), or None.
    """

    grey_hw: NDArray[Any]
    top: int
    left: int
    height: int
    width: int
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Source:
    """A file with its frames, or one frame of it that a manifest names.

    Attributes:
        name: Unique; names the files that are written of it.
        path: The file.
        frame: The one frame that is wanted; None: all of them.
    """

    name: str
    path: Path
    frame: int | None = None

    @property
    def is_clip(self) -> bool:
        """Whether it may have several frames in order."""
        moving = dicom.is_dicom(self.path) or video.is_video(self.path)
        return self.frame is None and moving

    def frames(self) -> list[int]:
        """Numbers of its frames.

        Raises:
            UnreadableError: If the file cannot be read or holds none.
        """
        if self.frame is not None:
            return [self.frame]
        if dicom.is_dicom(self.path):
            return list(range(dicom.open_dicom(self.path).frames))
        if video.is_video(self.path):
            count = video.open_video(self.path).count
            if not count:
                raise UnreadableError("holds no frame")
            return list(range(count))
        return list(range(_pages(self.path)))

    @property
    def frame_rate(self) -> float | None:
        """Frames a second, where the file says so."""
        if dicom.is_dicom(self.path):
            time_ms = dicom.open_dicom(self.path).frame_time_ms
            return 1000 / time_ms if time_ms else None
        return video.open_video(self.path).rate if video.is_video(self.path) else None

    def shot(self, frame: int, *, colour: bool = False) -> Shot:
        """Decode one frame.

        Args:
            frame: One of `frames()`.
            colour: Take a coloured picture as grey all the same.

        Raises:
            UnreadableError: If it cannot be decoded, or is a coloured picture.
        """
        if dicom.is_dicom(self.path):
            clip = dicom.open_dicom(self.path)
            box = clip.box
            grey = video.luma(clip.shown(frame))
            return Shot(grey, box.top, box.left, clip.height, clip.width, box.spacing_mm)
        if video.is_video(self.path):
            pixels: NDArray[Any] = video.open_video(self.path).frame(frame)
        else:
            pixels = _picture(self.path, frame)
        share = coloured(pixels)
        if share > COLOURED and not colour:
            raise UnreadableError(
                f"is no grey ultrasound: {share:.0%} of its pixels are coloured (--colour takes it "
                "as grey all the same)"
            )
        grey = video.luma(pixels)
        return Shot(grey, 0, 0, grey.shape[0], grey.shape[1])


def find_sources(given: Path) -> tuple[list[Source], int]:
    """All that is to be segmented at a path.

    Args:
        given: A file; a folder with `index.csv`, or that file: its rows; any other folder: all its
            pictures, DICOM and video files at any depth.

    Returns:
        The sources in order, and how many other files lay there.

    Raises:
        InputError: If there is nothing, or the manifest has faults.
    """
    if given.is_dir() and (given / MANIFEST).is_file():
        return _of_manifest(given), 0
    if given.is_file() and given.name == MANIFEST:
        return _of_manifest(given.parent), 0
    if given.is_file():
        if not _known(given):
            raise InputError(f"{given}: is no picture, DICOM or video that is known by its ending")
        return [Source(_name(given.with_suffix("").name), given)], 0
    if not given.is_dir():
        raise InputError(f"{given}: there is no such file or folder")
    files = sorted(path for path in given.rglob("*") if path.is_file())
    known = [path for path in files if _known(path)]
    if not known:
        raise InputError(f"{given}: holds no picture, DICOM or video")
    return list(_named(known, given)), len(files) - len(known)


def _of_manifest(folder: Path) -> list[Source]:
    rows = read_manifest(folder, DataSpec(folder="."))
    return [Source(_name(row.id), row.image, _row_frame(row.image, row.frame)) for row in rows]


def _row_frame(path: Path, frame: int | None) -> int | None:
    """A row's frame numbers a file's own frames only where the file has several."""
    if dicom.is_dicom(path) or video.is_video(path) or path.suffix.lower() in {".tif", ".tiff"}:
        return frame
    return 0


def _known(path: Path) -> bool:
    picture = path.suffix.lower() in SUFFIXES
    return picture or video.is_video(path) or dicom.is_dicom(path)


def _named(paths: list[Path], folder: Path) -> Iterator[Source]:
    """Each file under the name of its place; the ending comes in where two would be alike."""
    plain = [str(path.relative_to(folder).with_suffix("")) for path in paths]
    for path, name in zip(paths, plain, strict=True):
        whole = str(path.relative_to(folder)).replace(".", "_")
        yield Source(_name(whole if plain.count(name) > 1 else name), path)


def _name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def _pages(path: Path) -> int:
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1
    except Exception as error:  # Pillow's decoders fail with whatever their input provokes
        words = plain_words(error, path)
        raise UnreadableError(f"cannot be read as an image ({words})") from None


def _picture(path: Path, frame: int) -> NDArray[Any]:
    """Grey as the site's reader has it; colours where the file has them, to be told of."""
    grey = read_pillow(path, frame)
    with Image.open(path, formats=FORMATS) as picture:
        if picture.mode not in {"RGB", "RGBA", "P", "CMYK", "YCbCr"}:
            return grey
        picture.seek(frame if getattr(picture, "n_frames", 1) > 1 else 0)
        rgb = np.asarray(picture.convert("RGB"))
    return rgb if coloured(rgb) else grey
