"""Real files of the kinds that scanners write: DICOM by pydicom, video by PyAV."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

LITTLE = pydicom.uid.ExplicitVRLittleEndian
NAME = "Zimmermann^Anna"
PATIENT = "PID-4711"
STUDY = "1.2.826.0.1.3680043.8.498.1"
SECRETS = (NAME, "Zimmermann", PATIENT, STUDY, "19610203", "St Elsewhere", "ACC-99")


def region(
    left: int, top: int, right: int, bottom: int, *, cm: float | None = 0.01, kind: int = 1
) -> Dataset:
    """An item of SequenceOfUltrasoundRegions; the far edges are the last pixels inside."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = kind, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    if cm is not None:
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX, item.PhysicalDeltaY = cm, cm * 2
    return item


def write_dicom(
    path: Path,
    frames: NDArray[Any],
    *,
    syntax: str = LITTLE,
    regions: Sequence[Dataset] = (),
    photometric: str | None = None,
    header: Mapping[str, Any] | None = None,
) -> Path:
    """A multi-frame ultrasound with a patient in its header.

    Args:
        path: Where to.
        frames: (N, H, W) or (N, H, W, 3), uint8 or uint16.
        syntax: Transfer syntax UID.
        regions: Of `region`.
        photometric: Instead of MONOCHROME2 or RGB.
        header: Further or other elements; None deletes one.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    ds.Modality, ds.PatientName, ds.PatientID = "US", NAME, PATIENT
    ds.PatientBirthDate, ds.InstitutionName, ds.AccessionNumber = (
        "19610203",
        "St Elsewhere",
        "ACC-99",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.2"
    ds.TransducerData = ["C5-1", "SN-123456"]
    ds.FrameTime = "40.0"
    ds.NumberOfFrames, ds.Rows, ds.Columns = len(frames), frames.shape[1], frames.shape[2]
    colour = frames.ndim == 4
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    bits = frames.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = 0
    if regions:
        ds.SequenceOfUltrasoundRegions = list(regions)
    encoded = _encoded(frames, meta.TransferSyntaxUID)
    if encoded is None:
        ds.PixelData = frames.tobytes()
    else:
        ds.PixelData = encapsulate(encoded)
        ds["PixelData"].is_undefined_length = True
    if meta.TransferSyntaxUID == RLELossless:
        ds.file_meta.TransferSyntaxUID = LITTLE
        ds.PixelData = frames.tobytes()
        ds["PixelData"].is_undefined_length = False
        ds.compress(RLELossless)
    for name, value in (header or {}).items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def _encoded(frames: NDArray[Any], syntax: str) -> list[bytes] | None:
    if syntax == JPEGBaseline8Bit:
        return [_pillow(frame, "JPEG", quality=95, subsampling=0) for frame in frames]
    if syntax == JPEG2000Lossless:
        return [_pillow(frame, "JPEG2000", no_jp2=True) for frame in frames]
    if syntax == JPEGLosslessSV1:
        return [_av(frame, "ljpeg", "bgr24") for frame in frames]
    if syntax == JPEGLSLossless:
        return [_av(frame, "jpegls", "gray" if frame.ndim == 2 else "rgb24") for frame in frames]
    if syntax == MPEG4HP41:
        return [video_bytes(frames)]
    return None


def _pillow(frame: NDArray[Any], kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, kind, **options)
    return buffer.getvalue()


def _av(frame: NDArray[Any], codec: str, pixels: str) -> bytes:
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = frame.shape[1], frame.shape[0], pixels
    context.time_base = Fraction(1)
    picture = av.VideoFrame.from_ndarray(frame, format="gray" if frame.ndim == 2 else "rgb24")
    packets = [*context.encode(picture.reformat(format=pixels)), *context.encode(None)]
    return bytes(packets[0])


def write_video(path: Path, frames: NDArray[Any], *, rate: int = 25, crf: str = "4") -> Path:
    """A clip: H.264 in MP4, MPEG-4 in AVI.

    Args:
        path: Its ending decides.
        frames: (N, H, W) or (N, H, W, 3) uint8; even sides.
        rate: Frames a second.
        crf: Of H.264: quality.
    """
    with av.open(str(path), "w") as container:
        _fill(container, frames, "mpeg4" if path.suffix == ".avi" else "libx264", rate, crf)
    return path


def video_bytes(frames: NDArray[Any]) -> bytes:
    """A bare H.264 stream, as a DICOM video holds it."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        _fill(container, frames, "libx264", 25, "4")
    return buffer.getvalue()


def _fill(container: Any, frames: NDArray[Any], codec: str, rate: int, crf: str) -> None:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
    if codec == "libx264":
        stream.options = {"crf": crf, "preset": "ultrafast"}
    else:
        stream.bit_rate = 8_000_000
    for frame in frames:
        rgb = np.repeat(frame[..., None], 3, axis=-1) if frame.ndim == 2 else frame
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def moving(count: int = 4, height: int = 48, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """(N, H, W) smooth frames, each of another mean, so that they can be told apart."""
    rng = np.random.default_rng(seed)
    rough = rng.random((height // 8, width // 8))
    smooth = np.kron(rough, np.ones((8, 8)))
    return np.stack(
        [np.clip(60 + 20 * n + 60 * smooth, 0, 255).astype(np.uint8) for n in range(count)]
    )
