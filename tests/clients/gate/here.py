"""A gate in this process, with everything real but the SuperNode's and the center's insides."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients.gate.book import Book
from clients.gate.courier import Courier
from clients.gate.door import Door
from clients.gate.fleet import Server
from clients.gate.gate import Gate
from clients.gate.node_key import make_node_key, read_node_key
from clients.gate.policy import Policy
from clients.gate.spool import Spool
from clients.gate.upstream import Transport, Upstream, tls
from common.ledger_check import read, verify
from tests.clients.gate.center import Center
from tests.clients.gate.world import policy as honest_policy


@dataclass
class Here:
    """A running gate."""

    gate: Gate
    courier: Courier
    address: str
    folder: Path

    @property
    def events(self) -> list[dict[str, object]]:
        """The ledger, which must verify."""
        path = self.folder / "ledger.jsonl"
        problem = verify(path).problem
        assert problem is None, problem
        return [dict(line.event) for line in read(path)]


@contextmanager
def gate_here(
    folder: Path,
    center: Center,
    policy: Policy | None = None,
    *,
    proxy: str = "",
    address: str = "",
) -> Iterator[Here]:
    """Run a gate in this process; `address` stands in for the center's own."""
    folder.mkdir(exist_ok=True)
    key_path = folder / "node.key"
    if not key_path.exists():
        make_node_key(key_path)
    context = tls(center.keys.ca, center.keys.certificate, center.keys.key)
    transport = Transport(address or center.address, context, read_node_key(key_path), proxy)
    spool = Spool(folder / "spool")
    listener = socket.create_server(("127.0.0.1", 0))
    with Book(folder, "west", "gate") as book:
        gate = Gate(folder, policy or honest_policy(), Upstream(transport), spool, book)
        courier = Courier(gate, poll_s=0.05)
        server = Server(listener, Door(gate, courier, hold_s=5.0).answer)
        gate.settle_old()
        courier.start()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        host, port = listener.getsockname()
        try:
            yield Here(gate, courier, f"{host}:{port}", folder)
        finally:
            server.shutdown()
            server.server_close()
            courier.stop()
            gate.close()
    spool.close()
