"""All that a stage sees of a site's data: squares from the cache, splits, clusters, videos.

Legend: N = images of the site, n = images asked for, C = classes, S = side in pixels.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.data.cache import Digests, Progress, cache_key, make_folder, open_cache
from clients.data.manifest import MANIFEST, Row, read_manifest
from clients.data.preprocess import VERSION, square_image, square_mask
from clients.data.readers import (
    UnreadableError,
    fitting_mask,
    load_reader,
    picture_size,
    read_image,
    read_mask,
    reader_identity,
)
from clients.data.split import Split, clusters, split_rows
from clients.settings import SiteSettings
from common.config.data import SplitConfig
from common.errors import InputError

JUDGING_STAGES = frozenset({"upper", "evaluate", "annotate"})
"""The only stages that may see a target's masks and labels."""

Indices = Sequence[int] | NDArray[np.int64]


class MaskDenied(PermissionError):  # noqa: N818 - reads as what happened
    """A stage asked a target for masks or labels that it must not see."""


class SiteData:
    """One site's images and what is known about them; made by `SiteData.open`.

    Attributes:
        rows: One per image. At a target they carry no label, no mask and no further column:
            those are to be had from `labels` and `masks` alone, which ask for the stage.
        split: Train, val and test indices and the unit that was kept together.
        clusters: (N,) int64, the statistics unit: patient, else group, else image.
        videos: (N,) int64 number of the video, -1 without a video or without a frame number.
        frames: (N,) int64 frame number, -1 for none.
        has_mask: (N,) bool.
        synthetic: Whether any image is simulated (manifest column `synthetic`).
        side: S.
        classes: Names of the mask's classes; empty for a binary mask.
    """

    def __init__(
        self,
        settings: SiteSettings,
        rows: list[Row],
        split: Split,
        side: int,
        classes: tuple[str, ...],
        progress: Progress | None,
    ) -> None:
        self.settings = settings
        self.split = split
        self.side = side
        self.classes = classes
        self.clusters = clusters(rows)[0]
        self.frames = np.array([-1 if r.frame is None else r.frame for r in rows], np.int64)
        self.videos = _videos(rows)
        self.has_mask = np.array([row.mask is not None for row in rows], dtype=bool)
        self._mask_position = np.cumsum(self.has_mask) - 1
        self.synthetic = any(row.extra.get("synthetic") for row in rows)
        self._rows = rows
        self._judged_only = settings.role == "target"
        self.rows = [_redacted(row) for row in rows] if self._judged_only else rows
        self._reader = load_reader(settings.data.reader)
        self._reader_name = reader_identity(settings.data.reader)
        self._progress = progress
        self._masks: NDArray[np.uint8] | None = None
        self._images = self._open_images()

    @classmethod
    def open(
        cls,
        settings: SiteSettings,
        *,
        side: int,
        classes: tuple[str, ...] = (),
        split: SplitConfig,
        progress: Progress | None = None,
    ) -> Self:
        """Reads the manifest, splits it, and decodes whatever the cache does not hold yet.

        The split is written to `split.json` in the site's own folder.

        Args:
            settings: The site.
            side: S; images become S x S.
            classes: Names of a label mask's classes 1..C; empty for binary masks.
            split: Seed and shares.
            progress: Called with (done, N) while files are decoded.

        Raises:
            InputError: With all faults of the manifest, or of the files, or too little disk.
        """
        rows = read_manifest(settings.data_folder, settings.data)
        parts = split_rows(
            rows,
            split,
            site=settings.name,
            test=settings.data.test,
            columns=settings.data.columns,
        )
        site = cls(settings, rows, parts, side, classes, progress)
        record = {"unit": parts.unit, **parts.ids(rows)}
        _write_json(settings.folder / "split.json", record)
        return site

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for enrolment; no name of a patient or file among them."""
        return {
            "images": len(self.rows),
            "patients": len({row.patient for row in self.rows if row.patient}),
            "clusters": int(self.clusters.max()) + 1,
            "videos": int(self.videos.max()) + 1,
            "masks": int(self.has_mask.sum()),
            "train": len(self.split.train),
            "val": len(self.split.val),
            "test": len(self.split.test),
        }

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """Grey squares from the cache: (n, S, S) uint8; zeros right and below are padding."""
        return np.ascontiguousarray(self._images[np.asarray(indices, dtype=np.int64)])

    def masks(self, indices: Indices, *, stage: str) -> NDArray[np.uint8]:
        """Masks of the images asked for.

        No mask file is opened before the first call; then all of the site's are, once.

        Args:
            indices: (n,) rows; each must have a mask (`has_mask`).
            stage: Name of the stage that asks.

        Returns:
            (n, C, S, S) uint8 in {0, 1}; C is 1 for binary masks.

        Raises:
            MaskDenied: At a target, unless the stage is upper, evaluate or annotate.
            InputError: If a mask is unreadable, of another size than its image, or absent.
        """
        self._allow("masks", stage)
        wanted = np.asarray(indices, dtype=np.int64)
        absent = [self._rows[i] for i in wanted if not self.has_mask[i]]
        if absent:
            raise InputError(
                [f"{self._place(row)}: image '{row.id}' has no mask" for row in absent]
            )
        if self._masks is None:
            self._masks = self._open_masks()
        planes = self._masks[self._mask_position[wanted]]
        values = np.arange(1, max(len(self.classes), 1) + 1, dtype=np.uint8)
        masks: NDArray[np.uint8] = planes[:, None] == values[None, :, None, None]
        return masks.astype(np.uint8)

    def labels(self, indices: Indices, *, stage: str) -> list[str]:
        """Labels of the images asked for, "" where unknown; denied like `masks`."""
        self._allow("labels", stage)
        return [self._rows[i].label for i in np.asarray(indices, dtype=np.int64)]

    def _allow(self, what: str, stage: str) -> None:
        if self._judged_only and stage not in JUDGING_STAGES:
            raise MaskDenied(
                f"site '{self.settings.name}' is a target: stage '{stage}' must not see its {what}"
            )

    def _place(self, row: Row) -> str:
        return f"{self.settings.data_folder / MANIFEST}: row {row.number}"

    def _open_images(self) -> NDArray[np.uint8]:
        def decode(index: int) -> NDArray[np.uint8]:
            row = self._rows[index]
            try:
                return square_image(read_image(self._reader, row.image, row.frame), self.side)
            except UnreadableError as error:
                raise InputError(f"{self._place(row)}: image {row.image} {error}") from None

        files = [(row.image, row.frame) for row in self._rows]
        return self._open("images", files, len(files), decode)

    def _open_masks(self) -> NDArray[np.uint8]:
        rows = [(row, row.mask) for row in self._rows if row.mask is not None]
        classes = len(self.classes)

        def decode(position: int) -> NDArray[np.uint8]:
            row, mask = rows[position]
            try:
                values = read_mask(self._reader, mask, row.frame, classes=classes)
                size = picture_size(self._reader, row.image, row.frame)
                values = fitting_mask(values, row.image, size)
            except UnreadableError as error:
                raise InputError(f"{self._place(row)}: mask {mask} {error}") from None
            return square_mask(values, self.side, classes)

        # The images are part of the key: a mask must fit the very image it was drawn on.
        files = [file for row, mask in rows for file in ((mask, row.frame), (row.image, None))]
        return self._open(f"masks of {classes} classes", files, len(rows), decode)

    def _open(
        self,
        kind: str,
        files: Sequence[tuple[Path, int | None]],
        count: int,
        decode: Callable[[int], NDArray[np.uint8]],
    ) -> NDArray[np.uint8]:
        """Maps the cache of one kind of picture, decoding into it what it lacks."""
        folder = self.settings.cache
        owner = f"site '{self.settings.name}'"
        make_folder(folder, owner)
        digests = Digests(folder)
        contents = [f"{digests.of(path)} {page}" for path, page in files]
        digests.save()
        key = cache_key(kind, self.side, self._reader_name, VERSION, contents)
        path = folder / f"{key}.npy"
        return open_cache(path, count, self.side, decode, owner=owner, progress=self._progress)


def _redacted(row: Row) -> Row:
    """A target's row as the stages see it."""
    return dataclasses.replace(row, mask=None, label="", extra={})


def _videos(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Numbers the videos; without its frame number an image has no place in its video."""
    codes: dict[str, int] = {}
    numbers = [
        codes.setdefault(row.video, len(codes)) if row.video and row.frame is not None else -1
        for row in rows
    ]
    return np.array(numbers, dtype=np.int64)


def _write_json(path: Path, record: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)
