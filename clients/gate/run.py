"""The gate's process: put together, run until it is told to stop."""

import common.environment  # noqa: F401, I001 - before Flower

import argparse
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from clients.gate.approvals import approved, notes
from clients.gate.book import Book
from clients.gate.courier import Courier
from clients.gate.door import Door
from clients.gate.fleet import Server
from clients.gate.gate import Gate
from clients.gate.network import is_open, user_number
from clients.gate.node_key import make_node_key, read_node_key
from clients.gate.policy_file import load_policy
from clients.gate.spool import Spool, Standing
from clients.gate.upstream import Transport, Upstream, tls
from clients.site_file import SiteFile, load_site, split_address
from common.errors import InputError
from common.signing import public_path

log = logging.getLogger("sonofed.gate")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def run(site: SiteFile, listen_fd: int | None = None) -> None:
    """Run the gate until SIGTERM or SIGINT.

    Args:
        site: The site's file.
        listen_fd: A listening socket to use instead of `site.gate.listen`.

    Raises:
        InputError: If anything that it needs is not there or not right.
    """
    policy = load_policy(site.gate.policy)
    if policy.file.site != site.site.name:
        raise InputError(
            f"{site.gate.policy}: is the policy of {policy.file.site}, not of {site.site.name}"
        )
    context = tls(site.upstream.ca, site.upstream.certificate, site.upstream.key)
    folder = site.gate.folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    for note in notes(folder):
        log.warning("approvals: %s", note)
    # Found now rather than at the first instruction: approvals that were changed, or could be cut.
    approved(folder)
    key_path = site.gate.node_key
    if not key_path.exists():
        make_node_key(key_path)
        log.warning("made the node's key; the centre registers %s", public_path(key_path))
    transport = Transport(
        site.upstream.address, context, read_node_key(key_path), site.upstream.proxy
    )
    spool = _spool(folder / "spool")
    listener = _listener(site.gate.listen, listen_fd)
    with Book(folder, site.site.name, "gate") as book:
        gate = Gate(folder, policy, Upstream(transport), spool, book)
        book.network(is_open=is_open(listener), uid=user_number(site.network.user))
        courier = Courier(gate)
        server = Server(listener, Door(gate, courier).answer)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        gate.settle_old()
        courier.start()
        threading.Thread(target=server.serve_forever, name="door", daemon=True).start()
        if is_open(listener):
            log.warning("the SuperNode is in this machine's network: it has other ways out")
        log.info("%s: door at %s, out to %s", site.site.name, _where(listener),
                 site.upstream.address)  # fmt: skip
        stop.wait()
        log.info("stopping")
        server.shutdown()
        courier.stop()
        gate.close()
    spool.close()


def _spool(folder: Path) -> Spool:
    """The spool, once the small files in it have been read.

    Raises:
        InputError: Naming the file that is damaged, and what to do with it.
    """
    for path in sorted((folder / "exchanges").glob("*/standing.json")):
        try:
            Standing.model_validate_json(path.read_bytes())
        except (ValueError, OSError):
            raise InputError(
                f"{path}: is damaged, so nobody can say where this exchange stands; move its "
                "folder out of the spool and start again: the centre gets no answer to that "
                "instruction, and goes on when its time is over"
            ) from None
    node = folder / "node.json"
    try:
        if node.exists():
            int(json.loads(node.read_bytes())["node_id"])
    except (ValueError, LookupError, TypeError, OSError):
        raise InputError(
            f"{node}: is damaged; remove it and start again: the centre tells the node's id anew"
        ) from None
    return Spool(folder)


def _listener(address: str, listen_fd: int | None) -> socket.socket:
    if listen_fd is not None:
        try:
            listener = socket.socket(fileno=listen_fd)
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise InputError(f"--listen-fd {listen_fd}: is a socket that does not listen")
        except OSError as error:
            raise InputError(f"--listen-fd {listen_fd}: is no socket: {error.strerror}") from None
        return listener
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise InputError(f"gate.listen = {address!r}: {error.strerror}") from None
    listener.listen(64)
    return listener


def _where(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "an inherited socket"


def give_memory_back() -> None:
    """Have all threads use the same memory, and what is free beyond a few objects go back.

    By itself glibc gives each thread memory of its own, which keeps its own holes. Giving every
    object's memory back at once would have the system clear each anew.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


def main() -> None:
    """What `sonofed gate run` becomes: without the training's code."""
    parser = argparse.ArgumentParser(prog="sonofed gate run")
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int)
    given = parser.parse_args()
    start(given.site, given.listen_fd)


def start(site: Path, listen_fd: int | None = None) -> None:
    """Be the gate; ends the process.

    Args:
        site: The site's file.
        listen_fd: See `run`.
    """
    give_memory_back()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        run(load_site(site), listen_fd)
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    # Threads at the door may be waiting for a SuperNode that never speaks again.
    os._exit(0)


if __name__ == "__main__":
    main()
