"""Small tables in a site's folder: read strictly, written in one move, one writer at a time."""

import csv
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError

LOCK = "labels.csv.lock"
"""Of everything that readers say at a site; the name is older than the other tables."""


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, none where there is no file.

    Raises:
        InputError: If somebody has changed its columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        if tuple(reader.fieldnames or ()) != tuple(columns) or any(
            None in row or None in row.values() for row in rows
        ):
            raise InputError(f"{path}: is not as it was written; its columns are {list(columns)}")
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table beside its place, onto the disk, and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, onto the disk, and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def one_writer(site_folder: Path) -> Iterator[None]:
    """Only one process at a time writes what readers say: two may bring theirs at once."""
    site_folder.mkdir(parents=True, exist_ok=True)
    with (site_folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
