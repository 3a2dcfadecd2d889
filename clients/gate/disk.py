"""Files that survive a kill and a power cut: written beside, synced, put in place."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from clients.gate.tensors import refused

_ID = re.compile(r"[0-9a-f]{64}")


def is_id(name: str) -> bool:
    """Whether a word may be an object's id, and so a file's name."""
    return _ID.fullmatch(name) is not None


def write_whole(path: Path, content: bytes) -> None:
    """Put a file there, or leave what was there before."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have a folder's own entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Shelf:
    """Flower's objects in a folder, each under its id.

    Args:
        folder: Made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """Keep an object; it is on the disk when this returns.

        Raises:
            RefusedError: If its id is not its SHA-256.
        """
        if hashlib.sha256(content).hexdigest() != name:
            raise refused("an object is not what its id says")
        write_whole(self._path(name), content)

    def get(self, name: str) -> bytes:
        """An object as it was put.

        Raises:
            FileNotFoundError: If it is not here.
        """
        return self._path(name).read_bytes()

    def _path(self, name: str) -> Path:
        if not is_id(name):
            raise refused("an object's id is none")
        return self.folder / name

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self.folder.iterdir() if path.suffix != ".new")

    def bytes(self) -> int:
        """What lies here."""
        return sum((self.folder / name).stat().st_size for name in self)
