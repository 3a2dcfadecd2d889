"""Clips as video files (MP4, AVI and their kin), frame by frame, by PyAV.

Frames count from 0 in the order they are shown. Asked for in order they are decoded once; asked for
backwards the clip is decoded from its start again.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.unreadable import UnreadableError

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})

Frame = NDArray[np.uint8]


class Decoder:
    """One opened clip that goes forwards.

    Args:
        source: Gives the path, or a new reader of the bytes, each time decoding begins.
    """

    def __init__(self, source: Callable[[], Any]) -> None:
        self._source = source
        self._frames: Iterator[Frame] | None = None
        self._next = 0
        self._last: Frame | None = None
        self._count: int | None = None

    @property
    def count(self) -> int:
        """Number of frames; counted by going through the packets where the file does not say."""
        if self._count is None:
            self._count = self._counted()
        return self._count

    @property
    def rate(self) -> float | None:
        """Frames a second, or None."""
        import av

        with _plain(), av.open(self._source()) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
            return float(rate) if rate else None

    def frame(self, number: int) -> Frame:
        """Frame (H, W, 3), RGB.

        Raises:
            UnreadableError: If there is no such frame, or the clip is damaged.
        """
        if self._frames is None or number < self._next - 1:
            self._frames, self._next = self._decode(), 0
        while self._next <= number:
            picture = next(self._frames, None)
            if picture is None:
                self._frames = None
                raise UnreadableError(
                    f"has no frame {number}; its frames go from 0 to {self._next - 1}"
                    if self._next
                    else "holds no frame"
                )
            self._last = picture
            self._next += 1
        assert self._last is not None
        return self._last

    def _decode(self) -> Iterator[Frame]:
        import av

        with _plain(), av.open(self._source()) as container:
            if not container.streams.video:
                raise UnreadableError("holds no video")
            container.streams.video[0].thread_type = "AUTO"
            for picture in container.decode(video=0):
                yield picture.to_ndarray(format="rgb24")

    def _counted(self) -> int:
        import av

        with _plain(), av.open(self._source()) as container:
            if not container.streams.video:
                raise UnreadableError("holds no video")
            return sum(1 for _ in container.decode(video=0))


def open_video(path: Path) -> Decoder:
    """A clip's decoder; the last two are kept open.

    Raises:
        UnreadableError: Only when a frame is asked for.
    """
    stat = path.stat()
    return _opened(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> Decoder:
    return Decoder(lambda: str(path))


class _plain:  # noqa: N801 - reads as a word in a with statement
    """Turns FFmpeg's errors into UnreadableError."""

    def __enter__(self) -> None:
        import av

        av.logging.set_level(av.logging.PANIC)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None or kind is GeneratorExit:  # closed when Python ends, which imports nothing
            return
        import av

        if isinstance(error, av.error.FFmpegError):
            raise UnreadableError(
                f"cannot be read as a video ({error.strerror or type(error).__name__})"
            ) from None


def is_video(path: Path) -> bool:
    """Whether a file is a clip, by its ending."""
    return path.suffix.lower() in SUFFIXES


def luma(rgb_HW3: NDArray[Any]) -> NDArray[Any]:
    """Grey of an RGB picture, by the same ITU-R 601 weights as Pillow's; grey stays."""
    if rgb_HW3.ndim == 2:
        return rgb_HW3
    red, green, blue = (rgb_HW3[..., channel].astype(np.uint32) for channel in range(3))
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.astype(rgb_HW3.dtype)
