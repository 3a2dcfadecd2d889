"""Files that survive a kill and a power cut: written beside, synced, put in place."""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from clients.gate.tensors import refused

_ID = re.compile(r"[0-9a-f]{64}")


def is_id(name: str) -> bool:
    """Whether a word may be an object's id, and so a file's name."""
    return _ID.fullmatch(name) is not None


def write_whole(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Put a file there, or leave what was there before.

    Args:
        path: Where.
        content: What.
        sync: Also against a power cut; without, against a kill alone.
    """
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        if sync:
            os.fsync(file.fileno())
    os.replace(beside, path)
    if sync:
        sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Have a file, or a folder's own entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Shelf:
    """Flower's objects in a folder, each under its id.

    What is put survives a kill at once, and a power cut after `sync`.

    Args:
        folder: Made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unsynced: set[str] = set()
        self._syncing = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """Keep an object.

        Raises:
            RefusedError: If its id is not its SHA-256.
        """
        if hashlib.sha256(content).hexdigest() != name:
            raise refused("an object is not what its id says")
        write_whole(self._path(name), content, sync=False)
        self._unsynced.add(name)

    def sync(self) -> None:
        """Have all of them on the disk."""
        with self._syncing:
            while self._unsynced:
                sync_path(self.folder / self._unsynced.pop())
            sync_path(self.folder)

    def drop_unsound(self) -> None:
        """Drop what is not what its id says: half written when the power went."""
        for name in list(self):
            if not is_id(name) or hashlib.sha256(self.get(name)).hexdigest() != name:
                (self.folder / name).unlink()

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
        return (path.name for path in self.folder.iterdir())

    def bytes(self) -> int:
        """What lies here."""
        return sum((self.folder / name).stat().st_size for name in self)
