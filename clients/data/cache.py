"""Decodes each file once: uint8 squares in one memory-mapped .npy per site and preprocessing.

A cache file is named by a SHA-256 over the content of every file in it, the preprocessing's
version, the side and the reader; so it is never stale, and studies that agree share it.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Plane = NDArray[np.uint8]
Progress = Callable[[int, int], None]

SPARE_BYTES = 64 * 2**20
"""Left free on the disk beside the cache, for the run's own small files."""


class DiskFullError(InputError):
    """There is no room for the cache."""


class Digests:
    """SHA-256 of files, remembered by path, size and time of change.

    Args:
        folder: The cache folder; `digests.json` there is read, and written by `save`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "digests.json"
        self._known: dict[str, list[int | str]] = {}
        self._new: dict[str, list[int | str]] = {}
        try:
            self._known = json.loads(self._file.read_text())
        except (OSError, ValueError):  # only a memory aid: without it files are hashed again
            self._known = {}

    def of(self, path: Path) -> str:
        """The file's SHA-256 in hex; reads the file only if it changed."""
        stat = path.stat()
        name = str(path.absolute())
        known = self._new.get(name) or self._known.get(name)
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(known[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._new[name] = [stat.st_size, stat.st_mtime_ns, digest]
        return digest

    def save(self) -> None:
        """Writes what was learnt, if anything, in one step."""
        if not self._new:
            return
        self._known |= self._new
        self._new = {}
        part = self._file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(self._known))
        part.replace(self._file)


def cache_key(kind: str, side: int, reader: str, version: str, contents: Sequence[str]) -> str:
    """Name of a cache file.

    Args:
        kind: "images", "masks", ...
        side: Pixels.
        reader: What decodes the files.
        version: The preprocessing's version.
        contents: In row order, digest and page of each file.
    """
    head = json.dumps([kind, side, reader, version])
    return hashlib.sha256("\n".join([head, *contents]).encode()).hexdigest()


def open_cache(
    path: Path,
    count: int,
    side: int,
    decode: Callable[[int], Plane],
    *,
    owner: str,
    progress: Progress | None = None,
) -> Plane:
    """Maps a cache file, building it first if it is not there.

    It is written beside its place and renamed, so a kill leaves no half file; a lock makes a
    second process wait instead of decoding the same files.

    Args:
        path: The cache file, its name the key.
        count: Number of images N.
        side: S, pixels.
        decode: Gives (S, S) uint8 of image i; raises InputError if its file is bad.
        owner: Whose cache it is, for messages ("site 'north'").
        progress: Called with (done, N) after each image.

    Returns:
        (N, S, S) uint8, read-only, mapped.

    Raises:
        InputError: With every file that cannot be decoded.
        DiskFullError: If the disk is too full.
    """
    found = _map(path, count, side)
    if found is not None:
        return found
    with _locked(path.with_suffix(".lock")):
        found = _map(path, count, side)
        if found is None:
            _check_disk(path.parent, count * side * side, owner)
            _build(path, count, side, decode, progress)
            found = _map(path, count, side)
    assert found is not None
    return found


def _map(path: Path, count: int, side: int) -> Plane | None:
    try:
        mapped = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError):
        return None
    return mapped if mapped.shape == (count, side, side) else None


def _build(
    path: Path,
    count: int,
    side: int,
    decode: Callable[[int], Plane],
    progress: Progress | None,
) -> None:
    part = path.with_suffix(".part")
    problems: list[str] = []
    try:
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side)}
            np.lib.format.write_array_header_1_0(file, header)
            for index in range(count):
                try:
                    plane = decode(index)
                except InputError as error:
                    problems += error.problems
                else:
                    file.write(plane.tobytes())
                if progress is not None:
                    progress(index + 1, count)
        if problems:
            raise InputError(problems)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path, owner: str) -> None:
    """Makes the cache folder; InputError if that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{owner}: the cache folder {folder} cannot be made ({error.strerror})"
        ) from None


def _check_disk(folder: Path, needed: int, owner: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise DiskFullError(
            f"{owner}: too little disk for the image cache in {folder}: it needs "
            f"{(needed + SPARE_BYTES) / 2**20:.0f} MB, {free / 2**20:.0f} MB are free"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
