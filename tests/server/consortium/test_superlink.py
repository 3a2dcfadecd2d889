"""The SuperLink's command line, and whether it serves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from server.consortium import membership, superlink
from server.consortium.place import Place
from server.consortium.register import Register

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


class Says(HealthServicer):  # type: ignore[misc]
    def __init__(self, status: int) -> None:
        self.status = status

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        return HealthCheckResponse(status=self.status)


@contextmanager
def health(status: int) -> Iterator[int]:
    """A gRPC health service on a loopback port."""
    server = grpc.server(ThreadPoolExecutor(1))
    add_HealthServicer_to_server(Says(status), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def register(folder: Path, port: int) -> tuple[Place, Register]:
    place = Place(folder / "c")
    return place, membership.found(place, "test", "127.0.0.1:9", "127.0.0.1:9", 9, port)


def test_the_command_names_the_health_service(tmp_path: Path) -> None:
    command = superlink.command(*register(tmp_path, 9001))
    assert command[command.index("--health-server-address") + 1] == "127.0.0.1:9001"


@pytest.mark.parametrize(("status", "serves"), [(SERVING, True), (NOT_SERVING, False)])
def test_the_health_service_has_the_word(tmp_path: Path, status: int, serves: bool) -> None:
    with health(status) as port:
        _, found = register(tmp_path, port)
        assert superlink.serves(found, 5.0) is serves


def test_nobody_there(tmp_path: Path) -> None:
    with health(SERVING) as port:
        place, found = register(tmp_path, port)
        # The service is up, the API behind it is not yet.
        assert not superlink.is_healthy(place, found, 0.5)
    assert not superlink.serves(found, 0.5)


def test_a_proxy_of_the_environment_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    with health(SERVING) as port:
        assert superlink.serves(register(tmp_path, port)[1], 5.0)
