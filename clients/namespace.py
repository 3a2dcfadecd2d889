"""What stands between Flower's SuperNode and the world: a process of its own kind of solitude.

Run as a script, with nothing but the standard library. It leaves the machine's network for an
empty one, opens there the one address that the SuperNode may speak to, hands that LISTENING socket
out to the gate's side, makes the whole machine's files read-only but for the folders that training
works in, hides the keys and the gate's folder, gives up every privilege, and keeps SuperNode and
executor at work as the first process of a process namespace: when it ends, all in there ends.
"""

import array
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

NEW_NS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
INSIDE = 1000
"""User and group number that the owner has inside: not 0, so that `exec` gives no privilege."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Set up what argument 1 (JSON) says; the listener goes out by the socket of argument 2."""
    settings = json.loads(sys.argv[1])
    out = socket.socket(fileno=int(sys.argv[2]))
    parent = os.getppid()
    end_with_parent()
    if settings["open_network"]:
        listener = listen(settings["host"], settings["port"])
        hand_out(out, listener)
        become(settings["owner"])
        end_with_parent(parent)
        keep(settings)
        return
    leave(rooted=settings["owner"] is not None)
    alive, ours = os.pipe()
    child = os.fork()
    if child:
        # The namespace's first process is our child; we only wait for it.
        listener_of_parent(out)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    os.close(ours)
    shut(settings["writable"], settings["hidden"], settings["emptied"])
    loopback_up()
    hand_out(out, listen(settings["host"], settings["port"]))
    become(settings["owner"])
    end_with_parent()
    if select.select([alive], [], [], 0)[0]:
        # From in here the parent has no number to know it by; its end of the pipe is gone.
        os._exit(1)
    keep(settings)


def end_with_parent(parent: int | None = None) -> None:
    """Be killed when the parent ends. Whoever changes its user must say so anew.

    Args:
        parent: Its number; one that is gone already has nobody told, so this process ends here.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def leave(*, rooted: bool) -> None:
    """Enter namespaces of our own; without root's power, by way of a user namespace."""
    parts = NEW_NET | NEW_NS | NEW_PID | NEW_IPC
    if rooted:
        check(_libc.unshare(parts), "unshare")
        return
    user, group = os.getuid(), os.getgid()
    check(_libc.unshare(parts | NEW_USER), "unshare")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{INSIDE} {user} 1")
    write("/proc/self/gid_map", f"{INSIDE} {group} 1")


def shut(writable: list[str], hidden: list[str], emptied: list[str]) -> None:
    """Have files to be read and none to be changed, but where training works.

    Args:
        writable: Folders that training works in.
        hidden: Folders that are there and empty: keys, the gate's.
        emptied: Folders that are empty too and its own to write in: /tmp, other programs' sockets.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in writable:
        mount(path, path, None, MS_BIND)
    read_only("/", recursive=True)
    for path in writable:
        read_only(path, recursive=False, undo=True)
    for path in emptied:
        mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV)
    for path in hidden:
        mount("none", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def read_only(path: str, *, recursive: bool, undo: bool = False) -> None:
    """Make what is mounted at a path read-only, or writable again (Linux 5.12)."""
    attributes = struct.pack("QQQQ", *((0, ATTR_RDONLY) if undo else (ATTR_RDONLY, 0)), 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    arguments = (AT_FDCWD, path.encode(), flags, attributes, len(attributes))
    check(_libc.syscall(SYS_MOUNT_SETATTR, *arguments), f"read-only {path}")


def loopback_up() -> None:
    """The empty network has a loopback only, and it is down."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def listen(host: str, port: int) -> socket.socket:
    """Open the address that the SuperNode speaks to."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(64)
    return listener


def hand_out(out: socket.socket, listener: socket.socket) -> None:
    """Give the listening socket to the other side, and keep no end of it here."""
    rights = array.array("i", [listener.fileno()])
    port = listener.getsockname()[1]
    out.sendmsg([struct.pack("!H", port)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    listener.close()
    out.close()


def listener_of_parent(out: socket.socket) -> None:
    """The parent has no use for the way out."""
    out.close()


def become(owner: list[int] | None) -> None:
    """Give up every privilege, and the way back to any.

    Args:
        owner: User and group to be from here on; None: who we are.
    """
    if owner is not None:
        user, group = owner
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def keep(settings: dict[str, Any]) -> None:
    """Run the SuperNode and its executor; when one ends, both start anew, after a growing pause."""
    signal.signal(signal.SIGTERM, lambda *_: end(signal.SIGKILL))
    pause = PAUSE_S
    while True:
        began = time.monotonic()
        ours = {start(command, settings) for command in settings["commands"]}
        while True:
            pid, _ = os.waitpid(-1, 0)
            if pid in ours:
                break
        stop_all(ours - {pid})
        pause = PAUSE_S if time.monotonic() - began > LONGEST_PAUSE_S else pause
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def start(command: list[str], settings: dict[str, Any]) -> int:
    """Start a command as a child."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        end_with_parent(parent)
        os.chdir(settings["folder"])
        os.execve(command[0], command, settings["environment"])
    finally:
        os._exit(127)


def stop_all(pids: set[int]) -> None:
    """End what is left of a pair, the ClientApps below it too."""
    if os.getpid() == 1:
        # In a process namespace: all but this first process.
        os.kill(-1, signal.SIGKILL)
    for pid in pids:
        for kill in (os.killpg, os.kill):  # a group is there only once the child has made it
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return


def end(number: int) -> None:
    """End this process and everything below it."""
    if os.getpid() != 1:
        for line in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{line}/children") as file:
                for pid in file.read().split():
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(int(pid), number)
    os._exit(0)


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    """Mount something, or change how it is mounted.

    Raises:
        OSError: Naming the target.
    """
    names = (source.encode() if source else None, target.encode(), kind.encode() if kind else None)
    check(_libc.mount(*names, flags, None), f"mount {target}")


def check(result: int, what: str) -> None:
    """Turn a failed call into an OSError."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def write(path: str, text: str) -> None:
    """Write one of the kernel's files."""
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"no empty network for the SuperNode: {error}")
