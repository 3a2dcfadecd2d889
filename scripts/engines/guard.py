"""Runs a command and leaves nothing of it behind: `python guard.py COMMAND...`.

The guard ends everything below it when the command ends, or as soon as its own standard input is
closed, which happens however its parent goes, a SIGKILL included. Flower and Ray cannot be
trusted with that: a simulation whose SuperLink is gone runs on, and some of Ray's helpers outlive
it. Standard library only, so that it starts at once.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_S = 0.1
PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run a command.

    Returns:
        Its exit code, negative if it was ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_orphans()
    process: subprocess.Popen[bytes] | None = None
    try:
        # In here already: a signal may come when the child runs and Popen has not returned.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
            if readable and not os.read(sys.stdin.fileno(), 1):
                break
        return process.returncode if process.returncode is not None else -signal.SIGKILL
    finally:
        end_family(process)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_family(process: "subprocess.Popen[bytes] | None") -> None:
    """SIGKILL to everything below, until nothing is left; there is no state worth a goodbye.

    Without /proc (not Linux) it is the command's own process group that ends.
    """
    if process is not None and process.poll() is None and not Path("/proc/self/stat").exists():
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    while family := descendants():
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        time.sleep(POLL_S)


def descendants() -> set[int]:
    """Pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # Behind the command's name, which may hold anything: state, parent, ...
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    above = [os.getpid()]
    while above:
        above = [child for parent in above for child in children.get(parent, [])]
        found.update(above)
    return found


def reap() -> None:
    """Take leave of ended children, or they would stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
