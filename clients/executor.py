"""Starts a ClientApp for every message, each in a fresh process that need not import torch again.

Flower's own executor starts Python anew for every message, which costs seconds of imports. This
one imports the libraries once and forks: the study's code itself (the approved bundle) is still
loaded anew by every fork, from the bundle alone. Run as a script, so that no module of this
installation is loaded here that a bundle brings too.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import time

POLL_S = 0.1
LIBRARIES = (
    "torch", "torch.nn.functional", "torchvision", "timm", "monai.losses", "monai.metrics",
    "numpy", "scipy.stats", "scipy.ndimage", "skimage.metrics", "sklearn.cluster", "PIL.Image",
    "safetensors.torch", "pydantic", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "matplotlib.figure", "jinja2", "flwr.clientapp", "flwr.supernode.runtime.run_clientapp",
)  # fmt: skip


def main() -> None:
    """Wait for tasks of the SuperNode at `--runtime-api-address`, and fork for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime-api-address", required=True)
    address = parser.parse_args().runtime_api_address
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, _bury)
    client = connect(address)
    while True:
        token = acquire(client)
        if token and os.fork() == 0:
            run(address, token)
        time.sleep(POLL_S)


def connect(address: str):  # type: ignore[no-untyped-def]
    """A client of the SuperNode's Runtime API."""
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def acquire(client) -> str:  # type: ignore[no-untyped-def]
    """The token of a task that waits; empty where none does."""
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
    return str(found.token) if found.HasField("task") else ""


def run(address: str, token: str) -> None:
    """In the fork: Flower's own ClientApp process, from here to its end."""
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        run_clientapp(address, token, insecure=True, parent_pid=os.getppid())
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bury(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
