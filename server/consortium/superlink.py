"""Flower's SuperLink behind the front: on loopback, with TLS, node authentication and a database.

Only command lines and files are made here; Flower itself runs as processes of its own.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

from common.environment import SWITCHES
from server.consortium.place import Place, write_file
from server.consortium.register import Register

NAME = "superlink"
CONNECTION = "consortium"
LOOPBACK = "127.0.0.1,localhost"


def home(place: Place) -> Path:
    """FLWR_HOME of the SuperLink and of the operator's commands."""
    return place.superlink / "flower"


def address(register: Register) -> str:
    """Where the SuperLink listens."""
    return f"127.0.0.1:{register.superlink}"


def health_address(register: Register) -> str:
    """Where the SuperLink's gRPC health service listens, without TLS."""
    return f"127.0.0.1:{register.health}"


def command(place: Place, register: Register) -> list[str]:
    """The command that runs the SuperLink in the foreground."""
    folder = place.superlink.absolute()
    return [
        sys.executable, "-P", "-m", "server.consortium.flower",
        "--host", "127.0.0.1", "--port", str(register.superlink),
        "--ssl-ca-certfile", str(place.ca.absolute()),
        "--ssl-certfile", str(folder / "superlink.pem"),
        "--ssl-keyfile", str(folder / "superlink.key"),
        "--health-server-address", health_address(register),
        "--enable-supernode-auth", "--database", str(folder / "state.db"),
        "--isolation", "subprocess", "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def environment(place: Place) -> dict[str, str]:
    """The environment of the SuperLink and, through it, of the ServerApp."""
    return {
        **os.environ,
        **SWITCHES,
        "FLWR_HOME": str(home(place).absolute()),
        # The SuperLink starts its helpers by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    }


def write_connection(place: Place, register: Register) -> None:
    """Write Flower's list of connections, so that `flwr` commands of the operator work too."""
    text = (
        f"[superlink.{CONNECTION}]\n"
        f'address = "{address(register)}"\n'
        f"root-certificates = {json.dumps(str(place.ca.absolute()))}\n"
    )
    write_file(home(place) / "config.toml", text.encode(), 0o600)


def is_healthy(place: Place, register: Register, timeout_s: float = 2.0) -> bool:
    """Whether the SuperLink serves, by its own word and by its certificate.

    Its gRPC health service says SERVING, and its API, which starts last, answers with the
    certificate that the authority gave it.
    """
    if not serves(register, timeout_s):
        return False
    context = ssl.create_default_context(cafile=str(place.ca))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://{address(register)}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def serves(register: Register, timeout_s: float) -> bool:
    """Whether the health service says SERVING (gRPC Health Checking Protocol, `Check`)."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    # Loopback never goes through a proxy that the environment names.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(health_address(register), options=options) as channel:
        try:
            said = HealthStub(channel).Check(HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(said.status == HealthCheckResponse.SERVING)
