"""How many objects are in flight: few, until a line has shown that it is quick."""

import contextlib
import threading
import time
from pathlib import Path

import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK

from clients.gate import courier as couriers
from clients.gate.courier import AT_MOST, AT_ONCE, Courier
from clients.gate.upstream import UpstreamError
from tests.clients.gate.center import Center
from tests.clients.gate.here import gate_here


class Flight:
    """Counts what is under way at once."""

    def __init__(self, seconds: float, size: int) -> None:
        self.seconds = seconds
        self.size = size
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, name: str) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        if name == "broken":
            raise UpstreamError("the line is cut")
        return self.size


def most_of(courier: Courier, seconds: float, size: int = CHUNK, *, last: str = "whole") -> int:
    flight = Flight(seconds, size)
    with contextlib.suppress(UpstreamError):
        courier._each([*(str(number) for number in range(12)), last], flight)
    return flight.most


def test_a_quick_line_carries_more_at_once_until_it_is_none(
    tmp_path: Path, center: Center, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "QUICK_BPS", 8 * CHUNK / 0.1)
    with gate_here(tmp_path / "gate", center) as here:
        courier = here.courier
        assert most_of(courier, 0.02) == AT_ONCE
        assert most_of(courier, 0.02) == AT_MOST
        assert most_of(courier, 0.02, 100) == AT_MOST, "names and numbers say nothing of a line"
        assert most_of(courier, 0.6) == AT_MOST
        assert most_of(courier, 0.02, 100) == AT_ONCE
        assert most_of(courier, 0.02) == AT_ONCE
        assert most_of(courier, 0.02, last="broken") == AT_MOST
        assert most_of(courier, 0.02) == AT_ONCE
