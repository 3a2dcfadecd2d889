"""Ports of this machine's loopback, for whatever is started beside something else."""

import socket


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody has just now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
