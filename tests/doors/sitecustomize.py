"""Runs first in every Python process of test_doors.py: no connection beyond loopback.

Compiled libraries that open sockets of their own are not seen; with the in-process engine none of
them does.
"""

import contextlib
import ipaddress
import os
import sys

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
CONNECTIONS = ("socket.connect", "socket.sendto", "socket.sendmsg")


def is_local(host: object) -> bool:
    """Whether a host is this machine; names other than localhost count as outside."""
    text = host.decode() if isinstance(host, bytes) else str(host)
    if host is None or text in ("", "localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(text).is_loopback
    return False


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """Note and forbid what leads out."""
    if event in LOOKUPS:
        host: object = arguments[0]
    elif event in CONNECTIONS:
        address = arguments[1]
        # A path is a Unix socket; None is a socket that is connected already.
        if not isinstance(address, tuple):
            return
        host = address[0]
    else:
        return
    if not is_local(host):
        with open(os.environ["DOORS_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{event} {host}\n")
        raise PermissionError(f"{event}: {host} is not this machine")


sys.addaudithook(watch)
