"""A relay on loopback that writes down every byte that passes it, in clear, both ways.

It stands behind the consortium's TLS: the front (nginx) speaks plain HTTP to it, and it speaks TLS
to the SuperLink. So what it records is what left the hospitals, as the server got it.

A connection's two ways are two files, `0001.up` (to the server) and `0001.down`;
`connections.jsonl` says when each began and ended, and how many bytes passed.
"""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READ = 2**16
PATIENCE_S = 300.0
INDEX = "connections.jsonl"


@dataclass(frozen=True)
class Target:
    """Where a recorder passes on to.

    Attributes:
        where: Gives "host:port", asked anew for each connection.
        ca: Certificate that vouches for it, as `name`; None: plain TCP.
        name: See `ca`.
    """

    where: Callable[[], str]
    ca: Path | None = None
    name: str = "localhost"

    def connect(self) -> socket.socket:
        """A connection to it."""
        host, _, port = self.where().rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        if self.ca is None:
            return plain
        context = ssl.create_default_context(cafile=str(self.ca))
        return context.wrap_socket(plain, server_hostname=self.name)


class Recorder:
    """Relays and records; a context manager. A few threads a connection, one block of bytes each.

    Args:
        folder: Where the files go.
        target: Where the bytes go.

    Attributes:
        port: The loopback port that it listens on.
    """

    def __init__(self, folder: Path, target: Target) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self.listener.getsockname()[1])
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.count = 0
        self.bytes = {"up": 0, "down": 0}
        self.failed: list[str] = []
        self.threads: list[threading.Thread] = []
        self.index: IO[str] = (folder / INDEX).open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every connection; what has passed is in the files."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            ends = list(self.open)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(30)
        self.index.close()

    def _begin(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.count += 1
            self._begin(self._serve, near, self.count)

    def _serve(self, near: socket.socket, number: int) -> None:
        began = time.time()
        sizes = {"up": 0, "down": 0}
        words = ""
        try:
            with near, self.target.connect() as far:
                near.settimeout(PATIENCE_S)
                with self.lock:
                    self.open |= {near, far}
                up = self._begin(self._pass, near, far, number, "up", sizes)
                self._pass(far, near, number, "down", sizes)
                up.join()
                with self.lock:
                    self.open -= {near, far}
        except OSError as error:
            words = f"connection {number}: {error}"
            self.failed.append(words)
        told = {"connection": number, "began": began, "ended": time.time(), **sizes}
        with self.lock, contextlib.suppress(ValueError):
            self.index.write(json.dumps(told | ({"failed": words} if words else {})) + "\n")
            self.index.flush()

    def _pass(
        self,
        source: socket.socket,
        sink: socket.socket,
        number: int,
        way: str,
        sizes: dict[str, int],
    ) -> None:
        """One way of a connection. A byte is in its file before it goes on."""
        try:
            with (self.folder / f"{number:04d}.{way}").open("wb") as file:
                while data := source.recv(READ):
                    file.write(data)
                    sizes[way] += len(data)
                    with self.lock:
                        self.bytes[way] += len(data)
                    sink.sendall(data)
        except (OSError, ValueError):
            pass  # either end went away; what passed before is recorded
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)
