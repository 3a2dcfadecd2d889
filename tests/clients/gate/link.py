"""A poor link between two programs: it carries so many bits a second, stalls, and is cut.

A TCP proxy on loopback. What it has taken and not yet passed on is bounded, as on a real line: by
little, so that the sender feels the rate, or by much, as with a proxy that buffers.
"""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Queue
from typing import Literal

Way = Literal["up", "down"]

PIECE = 16384
BUFFER = 2**17
SHALLOW, DEEP = 4 * PIECE, 2**25


@dataclass
class Link:
    """From a port of its own to `target`, "host:port"; up is towards it.

    Attributes:
        rate: Bits a second each way, shared by all connections; 0 for no limit.
        depth: Bytes that a connection may have on its way.
        carried: Bytes each way since the beginning.
        cuts: How often all connections were cut off.
    """

    target: str
    rate: float = 0.0
    depth: int = SHALLOW
    carried: dict[Way, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    cuts: int = 0

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._turns: dict[Way, threading.Lock] = {"up": threading.Lock(), "down": threading.Lock()}
        self._due: dict[Way, list[int]] = {"up": [], "down": []}
        self._open: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return "127.0.0.1:{1}".format(*self.listener.getsockname())

    def cut_after(self, way: Way, *more: int) -> None:
        """Cut once `more` bytes have gone that way from now on; of several, each from the last."""
        with self._lock:
            at = self.carried[way]
            for step in more:
                at += step
                self._due[way].append(at)

    def cut(self) -> None:
        """All connections end, without a farewell; new ones are taken."""
        with self._lock:
            self.cuts += 1
            hanging, self._open = self._open, set()
        for one in hanging:
            # A reset, and no orderly end: as when the other side is no more.
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def stall(self) -> None:
        """Nothing goes either way until `flow`; nobody is told."""
        self._flows.clear()

    def flow(self) -> None:
        """What waits goes on."""
        self._flows.set()

    def close(self) -> None:
        """The end."""
        self.listener.close()
        self.flow()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket()
            for one in (near, far):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            host, _, port = self.target.rpartition(":")
            try:
                far.connect((host, int(port)))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for start, end, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._carry, args=(start, end, way), daemon=True).start()

    def _carry(self, start: socket.socket, end: socket.socket, way: Way) -> None:
        waiting: Queue[bytes] = Queue(max(1, self.depth // PIECE))
        threading.Thread(target=self._deliver, args=(waiting, end, way), daemon=True).start()
        with suppress(OSError):
            while data := start.recv(PIECE):
                waiting.put(data)
        waiting.put(b"")

    def _deliver(self, waiting: "Queue[bytes]", end: socket.socket, way: Way) -> None:
        with suppress(OSError):
            while data := waiting.get():
                self._flows.wait()
                if self.rate:
                    # One at a time, in turn: all connections share the line.
                    with self._turns[way]:
                        time.sleep(8 * len(data) / self.rate)
                if self._is_cut(way, len(data)):
                    self.cut()
                    break
                end.sendall(data)
            else:
                end.shutdown(socket.SHUT_WR)
                return
        # Nobody listens there: what still comes is read away, so that its sender is not held.
        while waiting.get():
            pass

    def _is_cut(self, way: Way, more: int) -> bool:
        """Count bytes; whether these are lost with the line."""
        with self._lock:
            self.carried[way] += more
            due = self._due[way]
            if due and self.carried[way] >= due[0]:
                due.pop(0)
                return True
        return False


@contextmanager
def link_to(target: str, rate: float = 0.0, depth: int = SHALLOW) -> Iterator[Link]:
    """A link, closed at the end."""
    link = Link(target, rate, depth)
    try:
        yield link
    finally:
        link.close()
