"""Reads a site's manifest `index.csv`: which images it has and what is known about each.

Nothing here opens an image or a mask; a file is only asked whether it is there and has bytes.
"""

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from common.config.data import MANIFEST_COLUMNS, DataSpec, Patterns, nearest
from common.errors import InputError

MANIFEST = "index.csv"
SPLITS = ("train", "val", "test")
REQUIRED = ("id", "image")


@dataclass(frozen=True)
class Row:
    """One image of a manifest.

    Attributes:
        id: Unique name of the image in its manifest.
        image: The image file, below the manifest's folder.
        mask: The mask file, or None.
        label: Class of the image, "" if unknown; so with the next four.
        patient: Whose image it is.
        video: Which sweep it is a frame of.
        frame: True frame number in that sweep, or None.
        device: The machine and probe.
        group: Name of images that must stay together (near duplicates).
        split: "train", "val", "test", or "" where the study draws.
        number: Row in the file, the header being row 1.
        extra: The text of all the file's columns under the file's own names.
    """

    id: str
    image: Path
    mask: Path | None = None
    label: str = ""
    patient: str = ""
    video: str = ""
    frame: int | None = None
    device: str = ""
    group: str = ""
    split: str = ""
    number: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Scan:
    """A manifest as far as it can be read: its good rows, and a sentence for each fault."""

    path: Path
    rows: list[Row]
    problems: list[str]
    warnings: list[str]


def read_manifest(folder: Path, spec: DataSpec) -> list[Row]:
    """Reads the rows of `folder/index.csv` that are this site's.

    Args:
        folder: Folder of the manifest; the paths in it are relative to this folder.
        spec: Column names and filters; its own `folder` and `test` are not applied here, but the
            columns that `test` names are checked.

    Returns:
        The rows that `where` keeps and `drop` leaves, in the file's order.

    Raises:
        InputError: With every fault of the file, each naming file, row and column.
    """
    scan = scan_manifest(folder, spec)
    if scan.problems:
        raise InputError(scan.problems)
    return scan.rows


def scan_manifest(folder: Path, spec: DataSpec) -> Scan:
    """Like `read_manifest`, but hands back the faults beside the rows that are good."""
    path = folder / MANIFEST
    scan = Scan(path, [], [], [])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        here = "" if folder.is_dir() else " (the folder is not there either)"
        scan.problems.append(f"{path}: there is no such manifest{here}")
        return scan
    except UnicodeDecodeError as error:
        scan.problems.append(f"{path}: is not UTF-8 text (byte {error.start})")
        return scan
    except OSError as error:
        scan.problems.append(f"{path}: cannot be read ({error.strerror})")
        return scan
    records = [
        (number, cells)
        for number, cells in enumerate(csv.reader(text.splitlines(keepends=True)), start=1)
        if any(cell.strip() for cell in cells)
    ]
    if not records:
        scan.problems.append(f"{path}: is empty")
        return scan
    header = [name.strip() for name in records[0][1]]
    scan.problems += _header_problems(path, header, spec)
    if scan.problems:
        return scan
    if len(records) == 1:
        scan.problems.append(f"{path}: has a header but no rows")
        return scan
    _read_rows(folder, spec, header, records[1:], scan)
    return scan


def matches(extra: Mapping[str, str], name: str, patterns: Patterns, spec: DataSpec) -> bool:
    """Whether the text of one column matches one of the patterns.

    Args:
        extra: The row's columns.
        name: A column of the file, or a manifest name that `spec.columns` maps to one.
        patterns: One shell pattern or several.
        spec: For its `columns`.
    """
    text = extra[name if name in extra else spec.columns[name]]
    alternatives = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(text, pattern) for pattern in alternatives)


def is_test(row: Row, spec: DataSpec) -> bool:
    """Whether `spec.test` names this row; never, if it is empty."""
    return bool(spec.test) and all(
        matches(row.extra, name, patterns, spec) for name, patterns in spec.test.items()
    )


def _header_problems(path: Path, header: list[str], spec: DataSpec) -> list[str]:
    problems = [
        f"{path}: two columns are called '{name}'"
        for name in sorted({name for name in header if name and header.count(name) > 1})
    ]
    for name, column in spec.columns.items():
        if column not in header:
            problems.append(
                f"{path}: has no column '{column}' (columns.{name}){nearest(column, header)}"
            )
    for name in REQUIRED:
        if name not in spec.columns and name not in header:
            problems.append(f"{path}: the column '{name}' is missing{nearest(name, header)}")
    known = [*header, *(name for name in spec.columns if name not in header)]
    for table in ("where", "drop", "test"):
        for name in getattr(spec, table):
            if name not in known:
                problems.append(f"{path}: has no column '{name}' ({table}){nearest(name, known)}")
    return problems


def _read_rows(
    folder: Path,
    spec: DataSpec,
    header: list[str],
    records: list[tuple[int, list[str]]],
    scan: Scan,
) -> None:
    """Reads the rows under a good header into `scan`."""
    names = {name: spec.columns.get(name, name) for name in MANIFEST_COLUMNS}
    seen: dict[str, int] = {}
    dropped = dict.fromkeys(spec.drop, 0)
    kept = 0
    for number, cells in records:
        if len(cells) != len(header):
            scan.problems.append(
                f"{scan.path}: row {number}: has {len(cells)} cells, the header has {len(header)}"
            )
            continue
        extra = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        # A repeated id is a fault of the file, wherever the filters send its rows.
        name = extra[names["id"]]
        if name and name in seen:
            scan.problems.append(
                f"{scan.path}: row {number}: the id '{name}' is already that of row {seen[name]}"
            )
        seen.setdefault(name, number)
        hit = [key for key, value in spec.drop.items() if matches(extra, key, value, spec)]
        for key in hit:
            dropped[key] += 1
        if hit or not all(matches(extra, key, value, spec) for key, value in spec.where.items()):
            continue
        kept += 1
        row = _row(folder, spec, names, extra, number, scan)
        if row is not None:
            scan.rows.append(row)
    _filter_problems(spec, records, kept, dropped, scan)


def _filter_problems(
    spec: DataSpec,
    records: list[tuple[int, list[str]]],
    kept: int,
    dropped: Mapping[str, int],
    scan: Scan,
) -> None:
    """Says which filter leaves nothing, or takes nothing."""
    if not kept and (spec.where or spec.drop):
        tables = " and ".join(
            f"{table} = {dict(getattr(spec, table))}"
            for table in ("where", "drop")
            if getattr(spec, table)
        )
        scan.problems.append(f"{scan.path}: {tables} leave none of the {len(records)} rows")
    elif scan.rows and spec.test and not any(is_test(row, spec) for row in scan.rows):
        scan.problems.append(
            f"{scan.path}: test = {dict(spec.test)} matches none of the {len(scan.rows)} rows"
        )
    for key, count in dropped.items():
        if not count:
            scan.warnings.append(f"{scan.path}: drop.{key} = {spec.drop[key]!r} matches no row")


def _row(
    folder: Path,
    spec: DataSpec,
    names: Mapping[str, str],
    extra: Mapping[str, str],
    number: int,
    scan: Scan,
) -> Row | None:
    """Makes one row; None, and sentences in `scan`, if it has faults."""
    where = f"{scan.path}: row {number}"
    value = {name: extra.get(column, "") for name, column in names.items()}
    for name, expression in spec.extract.items():
        found = re.search(expression, value[name])
        value[name] = found.group() if found else value[name]
    problems = [
        f"{where}: the column '{names[name]}' is empty" for name in REQUIRED if not value[name]
    ]
    files: dict[str, Path] = {}
    for name in ("image", "mask"):
        if value[name]:
            said = _file_problem(folder, value[name])
            if said:
                problems.append(f"{where}: {name} '{value[name]}' {said}")
            files[name] = folder / value[name]
    frame: int | None = None
    if value["frame"]:
        if value["frame"].isdecimal():
            frame = int(value["frame"])
        else:
            problems.append(
                f"{where}: {names['frame']} '{value['frame']}' is no whole number from 0 up"
            )
    if value["split"] and value["split"] not in SPLITS:
        problems.append(f"{where}: {names['split']} '{value['split']}' is none of train, val, test")
    scan.problems += problems
    if problems:
        return None
    return Row(
        id=value["id"],
        image=files["image"],
        mask=files.get("mask"),
        label=value["label"],
        patient=value["patient"],
        video=value["video"],
        frame=frame,
        device=value["device"],
        group=value["group"],
        split=value["split"],
        number=number,
        extra=extra,
    )


def _file_problem(folder: Path, text: str) -> str | None:
    """What is wrong with a path of the manifest, told without opening the file."""
    if Path(text).is_absolute():
        return "is an absolute path; paths are relative to the manifest's folder"
    # The text alone decides, not where a symbolic link leads: sites link their archives in.
    if os.path.normpath(text).split(os.sep)[0] == os.pardir:
        return "leads out of the manifest's folder"
    path = folder / text
    try:
        size = path.stat().st_size
    except OSError:
        return "is not there"
    if not path.is_file():
        return "is no file"
    return None if size else "is empty (0 bytes)"
