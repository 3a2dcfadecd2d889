"""Reads one image file into a grey array; a site may name its own reader in its data spec.

The default reads pictures by Pillow, DICOM ultrasound (cut to its regions, blank outside) and
video. A reader is a callable (Path, frame | None) -> 2-D array: uint8, uint16, or float in [0, 1].
It gets the row's frame number because one file may hold a whole sweep.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from clients.data.dicom import is_dicom, open_dicom
from clients.data.unreadable import UnreadableError
from clients.data.video import is_video, luma, open_video
from common.plugins import load_plugin

__all__ = [
    "Grey",
    "Reader",
    "UnreadableError",
    "check_size",
    "coloured_share",
    "fitting_mask",
    "load_reader",
    "open_picture",
    "picture_size",
    "read_file",
    "read_image",
    "read_mask",
    "read_pillow",
    "reader_identity",
]

Grey = NDArray[Any]
Reader = Callable[[Path, int | None], Grey]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
COLOUR_STEP = 24
"""Grey levels by which channels must differ before a pixel counts as coloured."""


def read_file(path: Path, frame: int | None = None) -> Grey:
    """The default reader: a picture, a frame of a DICOM ultrasound, or a frame of a video, as grey.

    Args:
        path: The file.
        frame: Page or frame, from 0; a DICOM with a single frame needs none.

    Returns:
        (H, W) uint8 or uint16, or float32 in [0, 1] from a floating-point TIFF. Of a DICOM the
        rectangle around its two-dimensional ultrasound regions, blank outside them.

    Raises:
        UnreadableError: If the file is damaged, has no such frame, or another kind of content.
    """
    if is_dicom(path):
        clip = open_dicom(path)
        if frame is None and clip.frames > 1:
            raise UnreadableError(f"holds {clip.frames} frames, and its row names none")
        return luma(clip.shown(frame or 0))
    if is_video(path):
        if frame is None:
            raise UnreadableError("is a video, and its row names no frame")
        return luma(open_video(path).frame(frame))
    return read_pillow(path, frame)


def read_pillow(path: Path, frame: int | None = None) -> Grey:
    """Reads PNG, JPEG, TIFF or BMP, 8 or 16 bit, as grey.

    RGB (usually grey stored three times) becomes luma, alpha is ignored, a palette is looked up.

    Args:
        path: The file.
        frame: Page to read where the file has several; else of no meaning here.

    Returns:
        (H, W) uint8 or uint16, or float32 in [0, 1] from a floating-point TIFF.

    Raises:
        UnreadableError: If the file is damaged, has no such page, or another kind of content.
    """
    with open_picture(path, frame) as picture:
        return _grey(picture)


DEFAULTS: tuple[Reader, ...] = (read_file, read_pillow)
"""The readers of this module, whose files' headers and colours are understood here."""


def open_picture(path: Path, frame: int | None = None) -> Image.Image:
    """Opens and fully decodes a picture; see `read_pillow`."""
    try:
        picture = Image.open(path, formats=FORMATS)
        if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
            if frame is None:
                raise UnreadableError("holds several pages, and its row names no frame")
            picture.seek(frame)
        picture.load()
    except UnreadableError:
        raise
    except EOFError:
        raise UnreadableError(f"has no page {frame}") from None
    # Pillow's decoders fail with whatever their input provokes.
    except Exception as error:
        raise UnreadableError(f"cannot be read as an image ({plain_words(error, path)})") from None
    return picture


def coloured_share(path: Path, frame: int | None = None) -> float:
    """Share of pixels, in [0, 1], whose channels differ visibly: 0 for grey stored as RGB."""
    if is_dicom(path):
        return coloured(open_dicom(path).shown(frame or 0))
    if is_video(path):
        return coloured(open_video(path).frame(frame or 0))
    with Image.open(path, formats=FORMATS) as picture:
        if picture.mode not in {"RGB", "RGBA", "P", "CMYK", "YCbCr"}:
            return 0.0
    with open_picture(path, frame) as picture:
        return coloured(np.asarray(picture.convert("RGB")))


def coloured(pixels: Grey) -> float:
    """`coloured_share` of pixels: (H, W) is 0, (H, W, 3) as their channels differ."""
    if pixels.ndim == 2:
        return 0.0
    rgb = pixels.astype(np.int16)
    return float((rgb.max(axis=2) - rgb.min(axis=2) > COLOUR_STEP).mean())


def picture_size(reader: Reader, path: Path, frame: int | None) -> tuple[int, int]:
    """Height and width in pixels, from the file's header where the default reader reads it."""
    if reader not in DEFAULTS or is_video(path):
        height, width = read_image(reader, path, frame).shape
        return height, width
    if is_dicom(path):
        return open_dicom(path).box.size
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.height, picture.width
    except Exception as error:
        raise UnreadableError(f"cannot be read as an image ({plain_words(error, path)})") from None


def read_mask(reader: Reader, path: Path, frame: int | None, *, classes: int) -> Grey:
    """Reads a mask file's values.

    Pillow reads what has a picture's suffix, even beside an own reader, whose masks are often
    painted as PNG; the own reader gets the rest.

    Args:
        reader: The site's reader.
        path: The mask.
        frame: Page, where the file has several.
        classes: 0 for a binary mask; else values are classes 1..classes, and a palette keeps
            its indices.

    Returns:
        (H, W) uint8 or uint16; floats only in a binary mask.

    Raises:
        UnreadableError: If it is damaged, or holds a value that is no class.
    """
    if not classes or path.suffix.lower() not in SUFFIXES:
        values = read_image(read_pillow if path.suffix.lower() in SUFFIXES else reader, path, frame)
    else:
        with open_picture(path, frame) as picture:
            values = np.asarray(picture) if picture.mode == "P" else _grey(picture)
    if classes and np.issubdtype(values.dtype, np.floating):
        raise UnreadableError(f"holds {values.dtype}, not the numbers of classes")
    if classes and values.max() > classes:
        raise UnreadableError(f"holds the value {values.max()}; classes go from 1 to {classes}")
    return values


def fitting_mask(values: Grey, image: Path, size: tuple[int, int]) -> Grey:
    """A mask as large as its image; one drawn on a whole DICOM frame is cut as the frame was.

    Args:
        values: The mask.
        image: The image file.
        size: Height and width of the image as it was read.

    Raises:
        UnreadableError: If it fits neither.
    """
    if values.shape != size and is_dicom(image):
        clip = open_dicom(image)
        if values.shape == (clip.height, clip.width):
            return values[clip.box.slices]
    check_size(values.shape, size)
    return values


def load_reader(name: str | None) -> Reader:
    """Finds the reader that a data spec names.

    Args:
        name: "package.module:name", or None for pictures, DICOM and video.

    Raises:
        InputError: If it cannot be imported or is no callable.
    """
    if name is None:
        return read_file
    reader: Reader = load_plugin(name, "reader")
    return reader


def reader_identity(name: str | None) -> str:
    """What the cache's key knows of a reader: its name and a digest of its module's file."""
    if name is None:
        return "pillow"
    load_reader(name)
    source = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""
    return f"{name} {digest}"


def read_image(reader: Reader, path: Path, frame: int | None) -> Grey:
    """Calls a reader and holds it to its promise.

    Returns:
        (H, W) uint8, uint16, or float in [0, 1].

    Raises:
        UnreadableError: Whatever the reader raised or returned instead.
    """
    try:
        grey = np.asarray(reader(path, frame))
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"cannot be read ({type(error).__name__}: {error})") from None
    if grey.ndim != 2 or 0 in grey.shape:
        raise UnreadableError(f"gives an array of shape {grey.shape}, not height x width")
    if grey.dtype in (np.uint8, np.uint16):
        return grey
    if not np.issubdtype(grey.dtype, np.floating):
        raise UnreadableError(f"gives {grey.dtype}, not uint8, uint16 or floats in 0..1")
    if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
        raise UnreadableError("gives floats outside 0..1")
    return grey


def check_size(mask: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raises UnreadableError if a mask's (height, width) is not its image's."""
    if mask != image:
        raise UnreadableError(f"is {mask[1]} x {mask[0]} pixels, its image {image[1]} x {image[0]}")


def plain_words(error: Exception, path: Path) -> str:
    """The error's words without the file's name, which the caller says."""
    if isinstance(error, UnidentifiedImageError):
        return "it is none, or of a kind that is not known"
    return str(error).replace(repr(str(path)), "it").replace(str(path), "it")


def _grey(picture: Image.Image) -> Grey:
    if picture.mode.startswith("I"):  # I;16 and its byte orders, or 16 bits widened to 32
        values = np.asarray(picture)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise UnreadableError("has 32-bit values beyond 0..65535")
        return values.astype(np.uint16)
    if picture.mode == "F":
        return np.asarray(picture, dtype=np.float32)
    return np.asarray(picture.convert("L"))
