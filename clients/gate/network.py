"""Where a gate's door stands: in the SuperNode's empty network, or in the machine's own."""

import fcntl
import os
import pwd
import socket
from pathlib import Path

SIOCGSKNS = 0x894C
"""Linux: gives the network namespace of a socket."""
OWN = Path("/proc/self/ns/net")


def is_open(listener: socket.socket) -> bool:
    """Whether whoever speaks to this socket is in the gate's own network, and so has its ways out.

    The kernel is asked, not the site's file. It answers those who made the other network; where it
    does not answer, nobody has seen that training is shut in.

    Args:
        listener: The socket that the gate accepts on.
    """
    try:
        namespace = fcntl.ioctl(listener.fileno(), SIOCGSKNS)
    except OSError:
        return True
    try:
        return os.path.samestat(os.fstat(namespace), OWN.stat())
    finally:
        os.close(namespace)


def user_number(name: str) -> int:
    """The number of the user that training runs as; without a name, ours.

    Args:
        name: As site.toml has it ([network] user).
    """
    try:
        return pwd.getpwnam(name).pw_uid if name else os.getuid()
    except KeyError:
        return os.getuid()
