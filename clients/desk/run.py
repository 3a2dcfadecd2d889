"""The desk as a process: a socket on this machine's loopback, and the browser that opens it."""

import html
import os
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from clients.desk.app import make_app
from clients.desk.desk import Desk
from clients.desk.door import Door
from common.errors import InputError

LOOPBACK = "127.0.0.1"
OPENER = "desk-open.html"


def bound(port: int) -> socket.socket:
    """A listening socket on the loopback.

    Args:
        port: 0 takes a free one.

    Raises:
        InputError: If the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise InputError(
            f"port {port} of {LOOPBACK} cannot be had ({error.strerror}); --port 0 takes a free one"
        ) from None
    listening.listen(64)
    return listening


def serve(desk: Desk, port: int, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until stopped.

    Args:
        desk: What is served.
        port: On the loopback; 0 takes a free one.
        browser: Whether to open it.
        say: Tells the person at the terminal.

    Raises:
        InputError: If the port is taken.
    """
    with bound(port) as listening:
        door = Door(make_app(desk), listening.getsockname()[1])
        door.entered = lambda: say(f"  for a further browser or reader: {door.link}")
        opener = desk.site.folder / OPENER
        say(f"desk of {desk.site.name}, {len(desk.wanted)} images: {door.link}")
        say("  the link works once and on this machine only; Ctrl+C ends the desk")
        config = uvicorn.Config(
            door, log_level="warning", access_log=False, server_header=False, ws="none",
            lifespan="off", timeout_graceful_shutdown=2,
        )  # fmt: skip
        try:
            if browser and _has_screen():
                _open(opener, door.link)
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            opener.unlink(missing_ok=True)
        say("desk closed; all that was said is saved")


def _has_screen() -> bool:
    """Whether a browser can show itself; one in the terminal would take the desk's place."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(opener: Path, link: str) -> None:
    """Open the browser by way of a file: everybody on a machine sees a process's arguments."""
    opener.parent.mkdir(parents=True, exist_ok=True)
    opener.unlink(missing_ok=True)
    text = (
        '<!doctype html><meta charset="utf-8"><title>Desk</title>'
        f'<meta http-equiv="refresh" content="0;url={html.escape(link)}">'
    )
    descriptor = os.open(opener, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    webbrowser.open(opener.absolute().as_uri())
