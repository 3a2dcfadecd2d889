"""Reads a manifest and every file it names, and tells what a study would stumble over.

It opens images and masks alike: it is the site's own tool, run by those who hold the data.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.data.burnt_in import find_letters
from clients.data.cache import Progress
from clients.data.duplicates import BITS, near_pairs, perceptual_hash
from clients.data.manifest import MANIFEST, SPLITS, Row, scan_manifest
from clients.data.preprocess import binary_mask, to_grey8
from clients.data.readers import (
    DEFAULTS,
    Reader,
    UnreadableError,
    coloured_share,
    fitting_mask,
    load_reader,
    read_image,
    read_mask,
)
from clients.data.split import Split, linked, split_rows
from common.config.data import DataSpec, SplitConfig
from common.errors import InputError

COLOURED = 0.01
"""Share of visibly coloured pixels from which a file is called coloured."""

LISTED = 20
"""Pairs of near duplicates, and images with letters, told one by one; more are counted."""


@dataclass
class CheckReport:
    """What `check_folder` found.

    Attributes:
        name: The folder's name.
        rows: The rows that are good.
        split: The study's split with the settings asked for; None if it is impossible.
        errors: What must be mended before a study can run.
        warnings: What should be looked at.
        empty_masks: Number of masks without foreground.
        sizes: Smallest and largest (width, height) of the images, by area.
    """

    name: str
    rows: list[Row]
    split: Split | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    empty_masks: int = 0
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Images, patients, videos, masks."""
        return {
            "images": len(self.rows),
            "patients": len({row.patient for row in self.rows if row.patient}),
            "videos": len({row.video for row in self.rows if row.video}),
            "masks": sum(row.mask is not None for row in self.rows),
        }

    def table(self) -> list[tuple[str, str, str, int]]:
        """Counts by (device, label, side of the split), sorted."""
        sides = self.sides()
        cells = Counter((r.device, r.label, s) for r, s in zip(self.rows, sides, strict=True))
        return [(*key, cells[key]) for key in sorted(cells)]

    def sides(self) -> list[str]:
        """The side of each row, "" where no split is possible."""
        names = [""] * len(self.rows)
        for side in SPLITS if self.split else ():
            for index in getattr(self.split, side):
                names[index] = side
        return names


def find_manifests(folder: Path) -> list[Path]:
    """The folder itself if it holds a manifest, else those of its subfolders that do.

    Raises:
        InputError: If there is none.
    """
    if (folder / MANIFEST).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        what = "holds no" if folder.is_dir() else "is no folder with an"
        raise InputError(f"{folder}: {what} {MANIFEST}, nor does a subfolder")
    return found


def check_folder(
    folder: Path,
    spec: DataSpec,
    *,
    split: SplitConfig | None = None,
    classes: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Checks one manifest and all its files.

    Args:
        folder: Folder of the manifest.
        spec: Columns, filters and reader as in a study; its `folder` is not used.
        split: Seed and shares as in a study.
        classes: 0 for binary masks, else the number of a label mask's classes.
        progress: Called with (done, all) after each row.

    Returns:
        The report; faults of the data are in its `errors`, none is raised.

    Raises:
        InputError: If the reader that `spec` names cannot be loaded.
    """
    reader = load_reader(spec.reader)
    scan = scan_manifest(folder, spec)
    report = CheckReport(folder.resolve().name, scan.rows, None, scan.problems, scan.warnings)
    try:
        report.split = split_rows(
            scan.rows,
            split or SplitConfig(),
            site=report.name,
            test=spec.test,
            columns=spec.columns,
        )
    except InputError as error:
        report.errors += error.problems
    hashes = _check_files(report, scan.path, reader, classes, progress)
    _check_rows(report, scan.path)
    _check_split(report, scan.path, spec)
    _check_duplicates(report, scan.path, hashes, spec)
    return report


def _check_files(
    report: CheckReport, path: Path, reader: Reader, classes: int, progress: Progress | None
) -> NDArray[np.bool_]:
    """Opens every file; returns the images' hashes, (N, 256), False where unreadable."""
    hashes = np.zeros((len(report.rows), BITS), dtype=bool)
    sizes: list[tuple[int, int]] = []
    lettered: list[str] = []
    for index, row in enumerate(report.rows):
        place = f"{path}: row {row.number}"
        try:
            grey = read_image(reader, row.image, row.frame)
            sizes.append((grey.shape[1], grey.shape[0]))
            values = to_grey8(grey)
            hashes[index] = perceptual_hash(values)
            if values.max() - values.min() < 1:
                report.warnings.append(f"{place}: image {row.image} is one single grey")
            lettered += [
                f"{place}: image {row.image} shows {row_of.count} letter-like shapes at columns "
                f"{row_of.left}-{row_of.right - 1}, rows {row_of.top}-{row_of.bottom - 1}; "
                "a name may be burned into it"
                for row_of in find_letters(values)[:1]
            ]
            if reader in DEFAULTS:
                share = coloured_share(row.image, row.frame)
                if share > COLOURED:
                    report.warnings.append(
                        f"{place}: image {row.image} is coloured ({share:.0%} of its pixels); "
                        "its colours become grey"
                    )
        except UnreadableError as error:
            report.errors.append(f"{place}: image {row.image} {error}")
        else:
            _check_mask(report, place, row, (grey.shape[0], grey.shape[1]), reader, classes)
        if progress is not None:
            progress(index + 1, len(report.rows))
    report.warnings += _shortened(lettered, path, "images with letters")
    if sizes:
        ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        report.sizes = ordered[0], ordered[-1]
    return hashes


def _check_mask(
    report: CheckReport,
    place: str,
    row: Row,
    size: tuple[int, int],
    reader: Reader,
    classes: int,
) -> None:
    if row.mask is None:
        return
    try:
        values = read_mask(reader, row.mask, row.frame, classes=classes)
        values = fitting_mask(values, row.image, size)
    except UnreadableError as error:
        report.errors.append(f"{place}: mask {row.mask} {error}")
        return
    covered = float((values > 0).mean() if classes else binary_mask(values).mean())
    report.empty_masks += covered == 0
    if covered > 0.95:
        report.warnings.append(f"{place}: mask {row.mask} covers {covered:.0%} of its image")


def _check_rows(report: CheckReport, path: Path) -> None:
    """What the rows say against each other."""
    frames: dict[tuple[str, int], int] = {}
    owners: dict[str, tuple[str, int]] = {}
    pictures: dict[tuple[Path, int | None], int] = {}
    without = [row.number for row in report.rows if row.video and row.frame is None]
    for row in report.rows:
        place = f"{path}: row {row.number}"
        if row.video and row.frame is not None:
            other = frames.setdefault((row.video, row.frame), row.number)
            if other != row.number:
                report.warnings.append(
                    f"{place}: frame {row.frame} of video '{row.video}' is also row {other}"
                )
        if row.video and row.patient:
            patient, other = owners.setdefault(row.video, (row.patient, row.number))
            if patient != row.patient:
                report.warnings.append(
                    f"{place}: video '{row.video}' is of patient '{row.patient}' here and of "
                    f"'{patient}' in row {other}"
                )
        other = pictures.setdefault((row.image, row.frame), row.number)
        if other != row.number:
            report.warnings.append(f"{place}: image {row.image} is also that of row {other}")
    if without:
        report.warnings.append(
            f"{path}: {len(without)} rows name a video but no frame (first: row {without[0]}); "
            "the contrastive stage treats them as single images"
        )


def _check_split(report: CheckReport, path: Path, spec: DataSpec) -> None:
    if report.split is None or not report.rows:
        return
    empty = [side for side in SPLITS if not len(getattr(report.split, side))]
    if empty:
        report.warnings.append(f"{path}: no image falls to {' or '.join(empty)}")
    if report.split.unit == "image":
        report.warnings.append(
            f"{path}: no patient and no group is known, so the split is by image; frames of one "
            "patient may lie on two sides"
        )


def _check_duplicates(
    report: CheckReport, path: Path, hashes: NDArray[np.bool_], spec: DataSpec
) -> None:
    """Near duplicates on two sides, or that a draw may put there, or with two labels."""
    rows, sides = report.rows, report.sides()
    if not rows:
        return
    given = bool(spec.test) or any(row.split for row in rows)
    units = linked(rows)
    parted: list[str] = []
    loose: list[str] = []
    labels: list[str] = []
    for a, b in near_pairs(hashes):
        pair = f"'{rows[a].id}' (row {rows[a].number}) and '{rows[b].id}' (row {rows[b].number})"
        if sides[a] != sides[b]:
            parted.append(f"{path}: {pair} are near duplicates, in {sides[a]} and in {sides[b]}")
        elif units[a] != units[b]:
            loose.append(f"{path}: {pair} are near duplicates in no common patient or group")
        if rows[a].label != rows[b].label and not (
            rows[a].video and rows[a].video == rows[b].video
        ):
            labels.append(
                f"{path}: {pair} are near duplicates labelled '{rows[a].label}' and "
                f"'{rows[b].label}'"
            )
    if given:
        report.errors += _shortened(parted, path)
    else:
        loose = parted + loose
    report.warnings += _shortened(loose, path)
    if loose:
        report.warnings.append(
            f"{path}: a drawn split may part those {len(loose)} pairs; give each a common `group`"
        )
    report.warnings += _shortened(labels, path)


def _shortened(lines: Sequence[str], path: Path, what: str = "pairs") -> list[str]:
    if len(lines) <= LISTED:
        return list(lines)
    return [*lines[:LISTED], f"{path}: ... and {len(lines) - LISTED} more such {what}"]
