"""The images as the desk shows them: at their own resolution, with the frames beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.cache import Digests
from clients.data.manifest import Row, read_manifest
from clients.data.preprocess import TWELVE_BIT
from clients.data.readers import UnreadableError, load_reader, read_image
from clients.settings import SiteSettings
from common.errors import InputError

KEPT = 24
"""Decoded images that are kept in memory: the one on the page, the next, some frames."""


@dataclass(frozen=True)
class Picture:
    """An image as it goes to the page.

    Attributes:
        values_HW: uint8 or uint16, grey.
        white: The value that is white before anybody moves the window.
    """

    values_HW: NDArray[Any]
    white: int

    @property
    def depth(self) -> int:
        """Bits a pixel."""
        return 8 * int(self.values_HW.dtype.itemsize)

    def content(self) -> bytes:
        """Row by row, little-endian."""
        kind = self.values_HW.dtype.newbyteorder("<")
        return self.values_HW.astype(kind, copy=False).tobytes()


@dataclass(frozen=True)
class Neighbours:
    """An image among its neighbours.

    Attributes:
        kind: "video", "patient", or "single".
        rows: In order.
        names: What each is called: its frame number, or its place.
        at: Where the image itself is.
    """

    kind: str
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    at: int


class Pictures:
    """A site's images by their ids.

    Args:
        site: Whose.

    Raises:
        InputError: If its manifest is not sound.
    """

    def __init__(self, site: SiteSettings) -> None:
        rows = read_manifest(site.data_folder, site.data)
        self.rows: Mapping[str, Row] = {row.id: row for row in rows}
        self._videos = _grouped([row for row in rows if row.video and row.frame is not None],
                                lambda row: row.video)  # fmt: skip
        self._patients = _grouped([row for row in rows if row.patient], lambda row: row.patient)
        self._reader = load_reader(site.data.reader)
        self._digests = Digests(site.cache)
        # A clip's decoder stands at one frame, and the digests' memory is a plain dictionary.
        self._lock = Lock()
        self._read = lru_cache(maxsize=KEPT)(self._decode)

    def digest(self, id_: str) -> str:
        """SHA-256 of an image's file as it is now.

        Raises:
            InputError: If the manifest or the disk no longer has it.
        """
        row = self._row(id_)
        try:
            with self._lock:
                return self._digests.of(row.image)
        except OSError as error:
            raise InputError(f"{row.image}: cannot be read ({error.strerror})") from None

    def size(self, id_: str) -> tuple[int, int]:
        """Height and width."""
        height, width = self.picture(self._row(id_)).values_HW.shape
        return height, width

    def sequence(self, id_: str) -> Neighbours:
        """The frames of its video, or the images of its patient, that the manifest has."""
        row = self._row(id_)
        if row.video and row.frame is not None:
            rows = sorted(self._videos[row.video], key=lambda r: (r.frame or 0, r.number))
            names = tuple(str(r.frame) for r in rows)
            return Neighbours("video", tuple(rows), names, rows.index(row))
        rows = self._patients.get(row.patient, [row]) if row.patient else [row]
        kind = "patient" if len(rows) > 1 else "single"
        names = tuple(str(place) for place in range(1, len(rows) + 1))
        return Neighbours(kind, tuple(rows), names, rows.index(row))

    def picture(self, row: Row) -> Picture:
        """Decode an image.

        Raises:
            InputError: If that is not possible.
        """
        try:
            changed = row.image.stat().st_mtime_ns
            with self._lock:
                return self._read(row.image, row.frame, changed)
        except (UnreadableError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{row.image}: {said}") from None

    def _decode(self, path: Path, frame: int | None, changed: int) -> Picture:
        grey = read_image(self._reader, path, frame)
        if grey.dtype == np.uint8:
            return Picture(grey, 255)
        if grey.dtype == np.uint16:
            return Picture(grey, TWELVE_BIT if grey.max() <= TWELVE_BIT else 65535)
        return Picture(np.rint(grey * 65535).astype(np.uint16), 65535)

    def _row(self, id_: str) -> Row:
        if id_ not in self.rows:
            raise InputError(f"the manifest no longer names the image {id_!r}")
        return self.rows[id_]


def _grouped(rows: Sequence[Row], key: Any) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
