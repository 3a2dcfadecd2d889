"""Starting a keeper that outlives the command that starts it."""

import subprocess
import sys
from pathlib import Path
from typing import IO


def start_keeper(
    module: str, target: Path, more: list[str], log: Path, *, guarded: bool = False
) -> "subprocess.Popen[bytes]":
    """Run a keeper's module in a session of its own.

    Args:
        module: Such as "clients.supervisor".
        target: What it keeps: a folder or a site's file.
        more: Further arguments.
        log: Where its words go.
        guarded: It stops when our end of its standard input closes, however we end.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, str(target), *more]
    with log.open("ab") as out:
        return _popen([*command, "--guarded"] if guarded else command, out, guarded)


def _popen(command: list[str], out: IO[bytes], guarded: bool) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if guarded else subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
