"""Which process holds a lock, so that it is signalled and no other that has its number.

A number says which process it is only in its own pid namespace (each container has one), and only
while that process lives.
"""

import json
import os
from pathlib import Path

from common.errors import InputError


def sign(lock: int) -> None:
    """Have a lock's file say that this process holds it.

    Args:
        lock: The file, open and locked.
    """
    pid = os.getpid()
    told = {"pid": pid, "started": started(pid), "namespace": namespace()}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(told).encode("ascii"), 0)


def holder(lock: Path) -> int | None:
    """The process that holds a lock; None if it has ended, or has not said yet that it does.

    Raises:
        InputError: If it runs where its number means nothing here.
    """
    try:
        told = json.loads(lock.read_text(encoding="ascii"))
        pid, began, space = int(told["pid"]), str(told["started"]), str(told["namespace"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if space != namespace():
        raise InputError(
            f"{lock.parent}: runs in a container or on another machine, and is to be told "
            "there; with docker: docker compose exec SERVICE sonofed ..."
        )
    return pid if started(pid) == began else None


def namespace() -> str:
    """The pid namespace that this process is in; the machine's boot counts too."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{space} {boot}"


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name stands in brackets and may hold anything; the start is the 20th field after it.
    return stat.rpartition(")")[2].split()[19]
