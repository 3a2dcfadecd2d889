"""The ledger: what passed a site's door, one signed line each, every line tied to the one before.

The format is docs/ledger.md; nothing here knows what an event means. `common/ledger_check.py`
reads and verifies. Removing or changing a byte inside shows at once; a cut end shows against the
head file beside it, or against receipts.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import InputError
from common.ledger_format import (
    FORMAT,
    LONGEST_LINE,
    NOTHING,
    Event,
    Line,
    read_head,
    read_line,
    seal,
    stamp,
    time_back,
)

ROTATE_BYTES = 64 * 2**20
POLL_S = 0.02
BLOCK = 2**16


class LedgerError(InputError):
    """The ledger cannot be written, or is not what it should be. Nothing may leave then."""


def head_path(path: Path) -> Path:
    """Where a ledger's head file lies."""
    return path.with_name(path.name + ".head")


def segments(path: Path) -> list[Path]:
    """The closed files of a ledger, oldest first; the open one is `path` itself."""
    return sorted(path.parent.glob(f"{path.stem}.[0-9]*{path.suffix}"))


def segment_path(path: Path, last: int) -> Path:
    """Name of a closed file whose last line has that sequence."""
    return path.with_name(f"{path.stem}.{last:012d}{path.suffix}")


def utc_now() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Ledger:
    """The one writer of a ledger.

    A line stands on the disk when `append` returns. What it speaks of may happen only then.

    Args:
        path: The file, such as ledger.jsonl; it and its folder are made where there is none.
        key: The site's signing key.
        about: Put into the opening event, such as the site's name.
        wait_s: Seconds to wait for another writer to finish; then it is an error.
        rotate_bytes: A file that has passed this size is closed and another begun.
        clock: Gives the time; for tests.

    Raises:
        LedgerError: If another writer is at it, the key is another, or the ledger was changed.
    """

    def __init__(
        self,
        path: Path,
        key: Ed25519PrivateKey,
        about: Event | None = None,
        *,
        wait_s: float = 0.0,
        rotate_bytes: int = ROTATE_BYTES,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.path = path
        self.key = key
        self.public = key.public_key().public_bytes_raw()
        self.about = dict(about or {})
        self.rotate_bytes = rotate_bytes
        self.clock = clock
        self.last: Line | None = None
        self._broken = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock(wait_s)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be opened: {error.strerror}") from None
        try:
            self._file: IO[bytes] = self._open()
        except OSError as error:
            self._lock.close()
            raise LedgerError(f"{path}: cannot be written: {error.strerror}") from None
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger."""
        self._file.close()
        self._lock.close()

    @property
    def is_broken(self) -> bool:
        """Whether this writer can write no more; opening the ledger again may mend it."""
        return bool(self._broken)

    @property
    def head(self) -> str:
        """Hash of the last line."""
        assert self.last is not None
        return self.last.hash

    def append(self, event: Event) -> Line:
        """Write one event down.

        Returns:
            Its line, which is on the disk.

        Raises:
            LedgerError: If it could not be written (a full disk, for one): then it is as if it had
                never been tried, and nothing that it speaks of may happen.
        """
        if self._broken:
            raise LedgerError(self._broken)
        line = self._write(self._file, event)
        if self._file.tell() >= self.rotate_bytes:
            try:
                self._rotate()
            except LedgerError as error:
                # The line itself stands; it is the next one that finds no file to go to.
                self._broken = "\n".join(error.problems)
        return line

    def _write(self, file: IO[bytes], event: Event) -> Line:
        before, now = self.last, self.clock()
        told = dict(event)
        if before and (back := time_back(before.time, stamp(now))):
            told["clock_back_us"] = back
        sequence = before.sequence + 1 if before else 0
        previous = before.hash if before else NOTHING
        entry = {"event": told, "previous": previous, "sequence": sequence, "time": stamp(now)}
        raw = seal(entry, self.key)
        if len(raw) > LONGEST_LINE:
            raise LedgerError(f"{self.path}: an event of {len(raw)} bytes is too long")
        line = Line(raw, sequence, stamp(now), previous, told)
        start = file.tell()
        try:
            _write_all(file, raw + b"\n")
            os.fsync(file.fileno())
            self._write_head(line)
        except OSError as error:
            self._take_back(file, start)
            raise LedgerError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.last = line
        return line

    def _take_back(self, file: IO[bytes], start: int) -> None:
        """Remove what was half written; where even that fails, this writer writes no more."""
        try:
            file.truncate(start)
            file.seek(start)
            os.fsync(file.fileno())
        except OSError:
            self._broken = f"{self.path}: was left with half a line; open it again"

    def _write_head(self, line: Line) -> None:
        entry = {"head": line.hash, "sequence": line.sequence, "time": line.time}
        beside = head_path(self.path).with_name(head_path(self.path).name + ".new")
        with open(beside, "wb", buffering=0) as file:
            _write_all(file, seal(entry, self.key) + b"\n")
            os.fsync(file.fileno())
        os.replace(beside, head_path(self.path))

    def _take_lock(self, wait_s: float) -> IO[bytes]:
        lock = open(self.path.with_name(self.path.name + ".lock"), "ab")  # noqa: SIM115
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() >= until:
                    lock.close()
                    raise LedgerError(f"{self.path}: another process writes it") from None
                time.sleep(POLL_S)

    def _open(self) -> IO[bytes]:
        head = self._read_head()
        closed = segments(self.path)
        whole, fragment = 0, b""
        if self.path.exists():
            whole, last, fragment = tail(self.path)
            self._check_first(whole)
            self.last = self._own(last) if last else None
        if self.last is None and closed:
            # Ended between closing one file and beginning the next.
            _, last, _ = tail(closed[-1])
            self.last = self._own(last) if last else None
        if self.last is None and head is not None:
            raise LedgerError(
                f"{self.path}: holds no line, but its head file knows {head[0] + 1}; put it back, "
                "or move the head file away to begin anew"
            )
        if head and self.last and head[0] == self.last.sequence and head[1] != self.last.hash:
            raise LedgerError(f"{self.path}: its last line is not the one its head file knows")
        file = open(self.path, "r+b" if self.path.exists() else "w+b", buffering=0)  # noqa: SIM115
        file.truncate(whole)
        file.seek(whole)
        self._begin(file, head, whole, fragment)
        if self.last is not None and self.last.event["kind"] == "rotated":
            self._file = file
            self._rotate(told=True)
            return self._file
        return file

    def _begin(
        self, file: IO[bytes], head: tuple[int, str] | None, whole: int, fragment: bytes
    ) -> None:
        """The first line of a file, and a line on what was found broken."""
        key = self.public.hex()
        # What had been written, also where it all stands in closed files; -1: nothing.
        held = self.last.sequence if self.last else -1
        if whole == 0:
            # The file is there before a head file can know a line of it.
            _sync_folder(self.path.parent)
        if self.last is None:
            self._write(file, {"kind": "opened", "format": FORMAT, "key": key, **self.about})
        elif whole == 0:
            self._write(file, {"kind": "continued", "format": FORMAT, "key": key})
        known = head[0] if head else -1
        missing = max(0, known - held)
        if fragment or missing or (head is None and held >= 0):
            found = {
                "kind": "recovered",
                "fragment_bytes": len(fragment),
                "fragment_sha256": hashlib.sha256(fragment).hexdigest(),
                "head": head[1] if head else "",
                "head_sequence": known,
                "lines_missing": missing,
            }
            self._write(file, found)

    def _own(self, raw: bytes) -> Line:
        try:
            return read_line(raw, self.public)
        except ValueError as error:
            raise LedgerError(
                f"{self.path}: its last line was changed, or written with another key ({error})"
            ) from None

    def _check_first(self, whole: int) -> None:
        if not whole:
            return
        with open(self.path, "rb") as file:
            raw = file.readline(LONGEST_LINE).rstrip(b"\n")
        try:
            key = read_line(raw, None).event.get("key")
        except ValueError as error:
            raise LedgerError(f"{self.path}: its first line was changed ({error})") from None
        if key != self.public.hex():
            raise LedgerError(f"{self.path}: was begun with another key")

    def _read_head(self) -> tuple[int, str] | None:
        path = head_path(self.path)
        if not path.exists():
            return None
        try:
            return read_head(path, self.public)
        except ValueError as error:
            raise LedgerError(f"{path}: {error}") from None

    def _rotate(self, *, told: bool = False) -> None:
        """Close the file with a signed line, set it aside, and begin the next."""
        if not told:
            self._write(self._file, {"kind": "rotated"})
        assert self.last is not None
        try:
            os.rename(self.path, segment_path(self.path, self.last.sequence))
            self._file.close()
            self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115
            _sync_folder(self.path.parent)
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be set aside: {error.strerror}") from None
        key = self.public.hex()
        self._write(self._file, {"kind": "continued", "format": FORMAT, "key": key})


def tail(path: Path) -> tuple[int, bytes | None, bytes]:
    """The end of a file: bytes of whole lines, the last whole line, and what is cut behind it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for reach in (BLOCK, 2 * LONGEST_LINE + 2):
            file.seek(max(0, size - reach))
            end = file.read()
            place = end.rfind(b"\n")
            start = end.rfind(b"\n", 0, max(0, place)) + 1
            if start or len(end) == size:
                break
    if place < 0:
        return 0, None, end
    fragment = end[place + 1 :]
    return size - len(fragment), end[start:place], fragment


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of it: a nearly full disk takes a part first, and says so at the next attempt."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
