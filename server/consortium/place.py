"""Where a consortium's files lie, and how they are written: whole or not at all."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

POLL_S = 0.05


@dataclass(frozen=True)
class Place:
    """The folder of one consortium at the coordinating centre."""

    root: Path

    @property
    def register(self) -> Path:
        """Sites, invitations, certificates: `register.json`."""
        return self.root / "register.json"

    @property
    def authority(self) -> Path:
        """The authority's key and certificate, and its list of revoked certificates."""
        return self.root / "authority"

    @property
    def ca(self) -> Path:
        """The authority's certificate: what sites trust."""
        return self.authority / "ca.pem"

    @property
    def crl(self) -> Path:
        """Certificates that hold no longer."""
        return self.authority / "revoked.pem"

    @property
    def front(self) -> Path:
        """Nginx: its configuration, certificate, key, logs."""
        return self.root / "front"

    @property
    def superlink(self) -> Path:
        """Flower's SuperLink: certificate, key, database, its own home."""
        return self.root / "superlink"

    @property
    def runs(self) -> Path:
        """Run folders of studies."""
        return self.root / "runs"

    @property
    def receipts_key(self) -> Path:
        """The key that signs the receipts of every run."""
        return self.root / "receipts.key"

    @property
    def status(self) -> Path:
        """What runs: written by the keeper."""
        return self.root / "status.json"

    @property
    def logs(self) -> Path:
        """What the processes said."""
        return self.root / "logs"


@contextmanager
def locked(path: Path, wait_s: float = 60.0) -> Iterator[None]:
    """Hold a lock, kept in a file of its own, while the block runs; across processes and threads.

    Args:
        path: The file; made where there is none.
        wait_s: How long whoever else holds it is waited for.

    Raises:
        InputError: If it is held longer.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError(
                        f"{path.parent}: another process changes it just now; try again"
                    ) from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(lock)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file beside its place, have the disk hold it, move it in.

    Args:
        path: Its place; the folder is made.
        data: All of it.
        mode: Permissions; 0o600 for what is secret.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
