"""Keeping processes at work: start, restart with a growing pause, stop cleanly, say how they are.

No daemon tricks: a keeper is an ordinary process in the foreground, good for systemd or a
container. Whatever it starts ends with it.
"""

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import holder
from common.errors import InputError

TICK_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 60.0
"""After so long at work, the next pause is a short one again."""
GRACE_S = 15.0
SIGN_S = 5.0
"""A keeper says at once who it is."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

log = logging.getLogger("sonofed.keeper")
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGTERM) -> Callable[[], None]:
    """What a child runs first, so that it does not outlive whoever started it."""
    parent = os.getpid()

    def set_signal() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)  # it ended before anybody was to be told

    return set_signal


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    *,
    folder: Path | None = None,
    inherit: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a child in a session of its own, its words appended to a file.

    Args:
        command: The command.
        environment: All of its environment.
        log_file: Where its words go.
        folder: Where it works.
        inherit: File descriptors that it gets.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as out:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=list(inherit),
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )


@dataclass
class Service:
    """One process that is kept at work.

    Attributes:
        name: Its name.
        start: Starts it.
        takes_along: Services that are restarted when this one is.
        process: While it runs.
        restarts: How often it was started again.
        since: When it was started last (seconds of `time.monotonic`).
        pause_s: Before the next start.
        due: When that is.
        last_exit: Its last exit code; negative: the signal that ended it.
    """

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    takes_along: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = -1
    since: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    due: float = 0.0
    last_exit: int | None = None
    started: str = ""
    trouble: str = ""


@dataclass
class Keeper:
    """Keeps services at work until it is told to stop.

    Attributes:
        status: Where it says how they are; a lock beside it keeps a second keeper away.
        services: In the order in which they start; they stop in the other order.
        about: What else its status says.
        guard: A file descriptor; when its other end closes, the keeper stops.
    """

    status: Path
    services: Sequence[Service]
    about: Mapping[str, Any] = field(default_factory=dict)
    guard: int | None = None
    _stopping: bool = False

    def run(self) -> None:
        """Start everything, and return when all of it has stopped.

        Raises:
            InputError: If another keeper is at work here.
        """
        lock = take_lock(self.status)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        # Whoever loses its parent below here comes to us, and is ended with us.
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            while not self._stopping:
                if self._look():
                    self._write("running")
                self._wait()
        finally:
            self._write("stopping")
            self._end()
            self._write("stopped")
            os.close(lock)

    def _stop(self, number: int, _frame: object) -> None:
        self._stopping = True

    def _wait(self) -> None:
        if self.guard is None:
            time.sleep(TICK_S)
        elif select.select([self.guard], [], [], TICK_S)[0] and not os.read(self.guard, 1):
            self._stopping = True

    def _look(self) -> bool:
        """Start what is due, notice what has ended; whether anything changed."""
        changed, now = False, time.monotonic()
        for service in self.services:
            process = service.process
            if process is not None and process.poll() is not None:
                self._ended(service, now)
                changed = True
            if service.process is None and now >= service.due:
                self._start(service, now)
                changed = True
        reap({s.process.pid for s in self.services if s.process is not None})
        return changed

    def _ended(self, service: Service, now: float) -> None:
        assert service.process is not None
        service.last_exit = service.process.returncode
        log.warning("%s ended (%s)", service.name, service.last_exit)
        end_group(service.process.pid)
        service.process = None
        self._pause(service, now)
        for name in service.takes_along:
            other = next(found for found in self.services if found.name == name)
            if other.process is not None:
                stop_process(other.process, GRACE_S)
                other.process = None
            # Not before the one that it goes with.
            other.due = service.due

    def _start(self, service: Service, now: float) -> None:
        try:
            service.process = service.start()
            service.trouble = ""
        except (OSError, InputError) as error:
            service.trouble = str(error)
            log.error("%s does not start: %s", service.name, error)
            self._pause(service, now)
            return
        service.restarts += 1
        service.since = now
        service.started = moment()

    def _pause(self, service: Service, now: float) -> None:
        if now - service.since > STEADY_S:
            service.pause_s = FIRST_PAUSE_S
        service.due = now + service.pause_s
        service.pause_s = min(2 * service.pause_s, LONGEST_PAUSE_S)

    def _end(self) -> None:
        for service in reversed(self.services):
            if service.process is not None:
                stop_process(service.process, GRACE_S)
                service.last_exit, service.process = service.process.returncode, None
        for pid in descendants(os.getpid()):
            kill(pid, signal.SIGKILL)

    def _write(self, state: str) -> None:
        services = {
            service.name: {
                "pid": service.process.pid if service.process is not None else None,
                "started": service.started,
                "restarts": max(0, service.restarts),
                "last_exit": service.last_exit,
                "trouble": service.trouble,
            }
            for service in self.services
        }
        told = {"state": state, "pid": os.getpid(), "at": moment(), "services": services}
        beside = self.status.with_name(f".{self.status.name}.{os.getpid()}")
        beside.write_text(json.dumps({**self.about, **told}, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.status)


def moment() -> str:
    """The time as status files tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def take_lock(status: Path) -> int:
    """Take the lock that a keeper holds while it runs.

    Raises:
        InputError: If one runs.
    """
    status.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(lock_of(status), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise InputError(f"{status.parent}: is up already; stop it first") from None
    holder.sign(lock)
    return lock


def lock_of(status: Path) -> Path:
    """The lock's file."""
    return status.with_name(f".{status.name}.lock")


def is_up(status: Path) -> bool:
    """Whether a keeper is at work."""
    if not lock_of(status).exists():
        return False
    lock = os.open(lock_of(status), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def read_status(status: Path) -> dict[str, Any] | None:
    """What a keeper says; None where none is at work."""
    if not is_up(status):
        return None
    try:
        found: dict[str, Any] = json.loads(status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def stop_keeper(status: Path, timeout_s: float = 60.0) -> bool:
    """Tell a keeper to stop, and wait until it has.

    Returns:
        Whether one was at work.

    Raises:
        InputError: If it runs in a container: its number is another process's here.
    """
    pid, began = None, time.monotonic()
    # It lets go of its lock a moment before it is gone.
    while is_up(status) or (pid is not None and not is_over(pid)):
        passed = time.monotonic() - began
        if pid is None:
            pid = holder.holder(lock_of(status))
            if pid is not None:
                kill(pid, signal.SIGTERM)
            elif passed > SIGN_S:
                raise InputError(f"{status.parent}: is up, and does not say as which process")
        elif passed > timeout_s:
            kill(pid, signal.SIGKILL)
            break
        time.sleep(TICK_S)
    return pid is not None


def is_over(pid: int) -> bool:
    """Whether a process has ended, even if nobody has buried it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def stop_process(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End a process and its group: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    end_group(process.pid)


def end_group(group: int) -> None:
    """Kill whatever is left of a process group that we made."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def reap(ours: set[int]) -> None:
    """Bury orphans that came to us; our own children's exit codes are for their handles."""
    for pid in children(os.getpid()):
        if pid not in ours and _state(pid) == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def children(pid: int) -> list[int]:
    """Children of a process (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
