"""DICOM ultrasound: frames, the regions that hold the image, and little else of the header.

Names, dates and numbers are burned in around the beam, so only what SequenceOfUltrasoundRegions
calls a two-dimensional region is shown; everything outside is blanked before anybody sees it.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.unreadable import UnreadableError

Pixels = NDArray[Any]

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
MAGIC_AT = 128

ULTRASOUND = {
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound Image Storage",
    "1.2.840.10008.5.1.4.1.1.3.1": "Ultrasound Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.1.6": "Ultrasound Image Storage (retired)",
    "1.2.840.10008.5.1.4.1.1.3": "Ultrasound Multi-frame Image Storage (retired)",
}
MODALITIES = frozenset({"US", "IVUS"})

BY_PYDICOM = frozenset({
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2",  # uncompressed
    "1.2.840.10008.1.2.1.99",  # deflated
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51",  # JPEG
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",  # JPEG 2000
})  # fmt: skip
STILLS_BY_AV = {
    "1.2.840.10008.1.2.4.57": "mjpeg", "1.2.840.10008.1.2.4.70": "mjpeg",  # lossless JPEG
    "1.2.840.10008.1.2.4.80": "jpegls", "1.2.840.10008.1.2.4.81": "jpegls",
}  # fmt: skip
"""Frames, one compressed picture each, that FFmpeg decodes where pydicom has nothing installed."""

VIDEO_BY_AV = frozenset(
    [f"1.2.840.10008.1.2.4.{number}{end}" for number in range(100, 109) for end in ("", ".1")]
)
"""MPEG-2, H.264 and HEVC: the whole clip is one stream."""

TWO_DIMENSIONAL = 1
CENTIMETRES = 3


@dataclass(frozen=True)
class Region:
    """A rectangle of the frame, in pixels; the far edges are outside.

    Attributes:
        left: First column.
        top: First row.
        right: Column after the last.
        bottom: Row after the last.
        spacing_mm: Millimetres a pixel (down, across), or None.
    """

    left: int
    top: int
    right: int
    bottom: int
    spacing_mm: tuple[float, float] | None = None

    @property
    def slices(self) -> tuple[slice, slice]:
        """Of an (H, W) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Clip:
    """An opened DICOM ultrasound.

    Attributes:
        frames: How many it has.
        height: Of the whole frame, pixels.
        width: Of the whole frame, pixels.
        regions: The two-dimensional regions; empty where the header names none.
        frame_time_ms: Between two frames, or None.
        probe: As the machine calls it, "" if it does not.
        names: What identifies whom; for pseudonyms, and never written anywhere.
    """

    frames: int
    height: int
    width: int
    regions: tuple[Region, ...]
    frame_time_ms: float | None
    probe: str
    names: dict[str, str] = field(repr=False)
    _dataset: Any = field(repr=False)
    _video: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def box(self) -> Region:
        """What is shown: the smallest rectangle around the regions, or the whole frame."""
        if not self.regions:
            return Region(0, 0, self.width, self.height)
        return Region(
            min(r.left for r in self.regions),
            min(r.top for r in self.regions),
            max(r.right for r in self.regions),
            max(r.bottom for r in self.regions),
            self.spacing_mm,
        )

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """Millimetres a pixel (down, across) where all regions agree on it."""
        spacings = {region.spacing_mm for region in self.regions}
        return spacings.pop() if len(spacings) == 1 else None

    def whole(self, frame: int) -> Pixels:
        """A whole frame as stored, colours and burnt-in text and all: (H, W) or (H, W, 3).

        Raises:
            UnreadableError: If there is no such frame, or it cannot be decoded.
        """
        if not 0 <= frame < self.frames:
            raise UnreadableError(
                f"has no frame {frame}; its frames go from 0 to {self.frames - 1}"
            )
        return _decoded(self, frame)

    def shown(self, frame: int) -> Pixels:
        """A frame cut to the box, blank outside the regions: (h, w) or (h, w, 3)."""
        pixels = self.whole(frame)
        if not self.regions:
            return pixels
        inside = np.zeros(pixels.shape[:2], dtype=bool)
        for region in self.regions:
            inside[region.slices] = True
        blanked = np.where(inside if pixels.ndim == 2 else inside[..., None], pixels, 0)
        return np.ascontiguousarray(blanked[self.box.slices]).astype(pixels.dtype)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its ending, or by its first bytes where it has none."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    # Archives name files by UIDs, whose last number looks like an ending.
    if suffix and not suffix[1:].isdecimal():
        return False
    try:
        with path.open("rb") as file:
            file.seek(MAGIC_AT)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def open_dicom(path: Path) -> Clip:
    """Read a file's header; frames are decoded when they are asked for.

    Raises:
        UnreadableError: If it is no DICOM, no ultrasound, cut short, has no frame, or its transfer
            syntax is not supported (by name).
    """
    stat = path.stat()
    return _opened(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> Clip:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
    except InvalidDicomError:
        raise UnreadableError("is no DICOM file") from None
    except Exception as error:  # pydicom fails with whatever the bytes provoke
        raise UnreadableError(f"is a damaged DICOM file ({type(error).__name__})") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _clip(dataset)


def _clip(dataset: Any) -> Clip:
    _check_kind(dataset)
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise UnreadableError("names no transfer syntax")
    if str(syntax) not in BY_PYDICOM | STILLS_BY_AV.keys() | VIDEO_BY_AV:
        raise UnreadableError(f"has the transfer syntax {syntax.name} ({syntax}): not supported")
    height, width = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    frames = int(dataset.get("NumberOfFrames", 1) or 0)
    if frames < 1 or "PixelData" not in dataset or not len(dataset.PixelData):
        raise UnreadableError("holds no frame")
    if height < 1 or width < 1:
        raise UnreadableError("says no height or width")
    _check_length(dataset, syntax, frames, height, width)
    return Clip(
        frames=frames,
        height=height,
        width=width,
        regions=_regions(dataset, height, width),
        frame_time_ms=_frame_time(dataset),
        probe=_probe(dataset),
        names={
            name: str(dataset.get(name, "") or "")
            for name in ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SOPInstanceUID")
        },
        _dataset=dataset,
    )


def _check_kind(dataset: Any) -> None:
    kind, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", ""))
    if kind in ULTRASOUND or (modality in MODALITIES and "PixelData" in dataset):
        return
    if "SOPClassUID" in dataset and not modality:
        modality = dataset.SOPClassUID.name
    raise UnreadableError(f"is no ultrasound: its modality is {modality or 'not said'}")


def _check_length(dataset: Any, syntax: Any, frames: int, height: int, width: int) -> None:
    """A file cut short is said to be so before a frame of it is half drawn."""
    if syntax.is_compressed and str(syntax) != "1.2.840.10008.1.2.1.99":
        return  # its decoder notices
    bits, samples = int(dataset.get("BitsAllocated", 8)), int(dataset.get("SamplesPerPixel", 1))
    if "422" in str(dataset.get("PhotometricInterpretation", "")):
        samples = 2
    wanted = frames * height * width * samples * bits // 8
    if len(dataset.PixelData) < wanted:
        raise UnreadableError(
            f"is cut short: {len(dataset.PixelData):,} of {wanted:,} bytes of its pixels are there"
        )


def _regions(dataset: Any, height: int, width: int) -> tuple[Region, ...]:
    """The two-dimensional regions, clamped to the frame."""
    sequence: Sequence[Any] = dataset.get("SequenceOfUltrasoundRegions") or ()
    found = []
    for item in sequence:
        if int(item.get("RegionSpatialFormat", 0) or 0) != TWO_DIMENSIONAL:
            continue
        region = Region(
            left=max(0, int(item.get("RegionLocationMinX0", 0))),
            top=max(0, int(item.get("RegionLocationMinY0", 0))),
            right=min(width, int(item.get("RegionLocationMaxX1", -1)) + 1),
            bottom=min(height, int(item.get("RegionLocationMaxY1", -1)) + 1),
            spacing_mm=_spacing(item),
        )
        if min(region.size) < 1:
            raise UnreadableError("names an ultrasound region that lies outside its frame")
        found.append(region)
    if sequence and not found:
        raise UnreadableError("has no two-dimensional region: M-mode or a spectrum alone")
    return tuple(found)


def _spacing(item: Any) -> tuple[float, float] | None:
    units = {int(item.get(f"PhysicalUnits{axis}Direction", 0) or 0) for axis in "XY"}
    if units != {CENTIMETRES}:
        return None
    down, across = (abs(float(item.get(f"PhysicalDelta{axis}", 0) or 0)) * 10 for axis in "YX")
    return (down, across) if down > 0 and across > 0 else None


def _frame_time(dataset: Any) -> float | None:
    if dataset.get("FrameTime"):
        return float(dataset.FrameTime)
    vector = dataset.get("FrameTimeVector")
    steps = [float(step) for step in vector[1:]] if vector is not None and len(vector) > 1 else []
    if steps and sum(steps) > 0:
        return sum(steps) / len(steps)
    rate = float(dataset.get("CineRate", 0) or dataset.get("RecommendedDisplayFrameRate", 0) or 0)
    return 1000 / rate if rate > 0 else None


def _probe(dataset: Any) -> str:
    """The transducer's name; its first value alone, since the others may be serial numbers."""
    value = dataset.get("TransducerData") or dataset.get("TransducerType") or ""
    first = str(value if isinstance(value, str) else next(iter(value), ""))
    kept = "".join(c for c in first if c.isascii() and (c.isalnum() or c in " -_.+/"))
    return " ".join(kept.split())[:32]


def _decoded(clip: Clip, frame: int) -> Pixels:
    dataset = clip._dataset
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if syntax in VIDEO_BY_AV:
                pixels = _video_frame(clip, frame)
            elif syntax in STILLS_BY_AV:
                pixels = _still(dataset, frame, STILLS_BY_AV[syntax])
            else:
                pixels = _by_pydicom(dataset, frame)
    except UnreadableError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UnreadableError(f"cannot be decoded at frame {frame} ({reason})") from None
    if pixels.shape[:2] != (clip.height, clip.width):
        raise UnreadableError(
            f"has a frame of {pixels.shape[1]} x {pixels.shape[0]} pixels where its header says "
            f"{clip.width} x {clip.height}"
        )
    return pixels


def _by_pydicom(dataset: Any, frame: int) -> Pixels:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    pixels: Pixels = pixel_array(dataset, index=frame)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
    return _grey_scale(pixels, dataset, kind)


def _grey_scale(pixels: Pixels, dataset: Any, kind: str) -> Pixels:
    """MONOCHROME1 turned round; more than 8 bits stretched to the full 16."""
    if pixels.ndim == 3:
        return pixels
    full = (1 << int(dataset.BitsStored)) - 1
    if kind == "MONOCHROME1":
        pixels = full - pixels
    if pixels.dtype == np.uint8 and full == 255:
        return pixels
    scale = 255 if full <= 255 else 65535
    scaled = np.clip(pixels, 0, full).astype(np.float64) * (scale / full)
    return np.rint(scaled).astype(np.uint8 if scale == 255 else np.uint16)


def _still(dataset: Any, frame: int, codec: str) -> Pixels:
    """One compressed picture of a multi-frame file, by FFmpeg."""
    import av
    from pydicom.encaps import get_frame

    data = get_frame(
        dataset.PixelData, frame, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1)
    )
    decoder: Any = av.CodecContext.create(codec, "r")
    pictures = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    if not pictures:
        raise UnreadableError(f"is cut short at frame {frame}")
    kind = str(dataset.PhotometricInterpretation)
    if int(dataset.SamplesPerPixel) == 1:
        return _grey_scale(pictures[0].to_ndarray(), dataset, kind)
    name = pictures[0].format.name
    if name in ("yuv444p", "yuvj444p"):
        # Three planes as they were stored; what they mean is the header's to say, not FFmpeg's.
        stored: Pixels = np.stack(list(pictures[0].to_ndarray()), axis=-1)
    else:
        stored = pictures[0].to_ndarray(format="rgb24")
    if kind.startswith("YBR_FULL"):
        from pydicom.pixels.processing import convert_color_space

        return convert_color_space(stored, kind, "RGB")
    return stored


def _video_frame(clip: Clip, frame: int) -> Pixels:
    """A frame of the one stream that an MPEG-encoded file holds."""
    from pydicom.encaps import generate_fragments

    from clients.data.video import Decoder

    if "decoder" not in clip._video:
        data = b"".join(generate_fragments(clip._dataset.PixelData))
        clip._video["decoder"] = Decoder(lambda: io.BytesIO(data))
    pixels: Pixels = clip._video["decoder"].frame(frame)
    return pixels
