"""Starts a ClientApp for every message, each in a fresh process that need not import torch again.

Flower's own executor starts Python anew for every message, which costs seconds of imports. This
one imports the libraries once and forks: the study's code itself (the approved bundle) is still
loaded anew by every fork, from the bundle alone. Run as a script, so that no module of this
installation is loaded here that a bundle brings too.

A SuperNode waits for ever for the answer of a ClientApp that ended its task without one. So no fork
does: however it ends, the SuperNode either has the whole answer, or finds out that the ClientApp
crashed, or is started anew together with this executor; then the gate hands the instruction down
again.
"""

import argparse
import contextlib
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

POLL_S = 0.1
LIBRARIES = (
    "torch", "torch.nn.functional", "torchvision", "timm", "monai.losses", "monai.metrics",
    "numpy", "scipy.stats", "scipy.ndimage", "skimage.metrics", "sklearn.cluster", "PIL.Image",
    "safetensors.torch", "pydantic", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "matplotlib.figure", "jinja2", "flwr.clientapp", "flwr.supernode.runtime.run_clientapp",
)  # fmt: skip


GOT, GIVING, GAVE = b"<", b">", b"."
"""What a fork says of itself: it has its instruction; its answer is on its way; it has arrived."""


def main() -> None:
    """Wait for tasks of the SuperNode at `--runtime-api-address`, and fork for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime-api-address", required=True)
    address = parser.parse_args().runtime_api_address
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    client = connect(address)
    forks: dict[int, int] = {}
    while True:
        token = acquire(client)
        if token:
            start(forks, functools.partial(run, address, token))
        time.sleep(POLL_S)
        for said in ended(forks):
            if strands(said):
                sys.exit("a ClientApp ended where its SuperNode would wait for ever: both anew")


def start(forks: dict[int, int], work: Callable[[int], NoReturn]) -> None:
    """Fork for a task.

    Args:
        forks: Gets its process, and the end of the pipe by which it speaks.
        work: What it does; it is given the other end, and never returns.
    """
    hears, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hears)
        work(says)
    os.close(says)
    forks[pid] = hears


def ended(forks: dict[int, int]) -> list[bytes]:
    """Bury the forks that have ended; gives what each had said."""
    gone = [pid for pid in forks if os.waitpid(pid, os.WNOHANG)[0]]
    found = []
    for pid in gone:
        with open(forks.pop(pid), "rb", buffering=0) as pipe:
            # Not to its end: a process that the study's code started may still hold the other one.
            os.set_blocking(pipe.fileno(), False)
            found.append(pipe.read(16) or b"")
    return found


def strands(said: bytes) -> bool:
    """Whether a SuperNode waits for ever for a fork that said this and ended.

    Of one that had its instruction and had not begun to answer, it finds out by itself: the task's
    heartbeat is missing. Of one that had none it is not told, and of half an answer it waits for
    the other half.
    """
    return said not in (GOT, GOT + GIVING + GAVE)


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


def run(address: str, token: str, says: int) -> NoReturn:
    """In the fork: Flower's own ClientApp process, from here to its end.

    Args:
        address: Of the Runtime API.
        token: Of the task.
        says: The pipe that the executor listens to.
    """
    from flwr.supernode.runtime import run_clientapp as flower

    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        end_tasks_only_when_answered(flower, functools.partial(os.write, says))
        flower.run_clientapp(address, token, insecure=True, parent_pid=os.getppid())
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_tasks_only_when_answered(flower: Any, say: Callable[[bytes], object]) -> None:
    """Change Flower's ClientApp process: it ends its task only after its answer has arrived.

    As it comes, it ends the task as failed when it is told to stop (SIGTERM), and where it could
    not fetch its instruction or give its answer: then no answer ever comes, and no heartbeat is
    missed. Here a signal kills it as SIGKILL does.

    Args:
        flower: The module `flwr.supernode.runtime.run_clientapp`.
        say: Is told how far it has come.
    """
    from flwr.supercore.exit.exit_handler import add_exit_handler

    pull, push, finish = flower.pull_task_input, flower.push_message, flower.push_task_output
    answered = False

    def pull_task_input(*given: Any, **named: Any) -> Any:
        found = pull(*given, **named)
        say(GOT)
        return found

    def push_message(*given: Any, **named: Any) -> None:
        nonlocal answered
        say(GIVING)
        push(*given, **named)
        answered = True
        say(GAVE)

    def push_task_output(*given: Any, **named: Any) -> None:
        if answered:
            finish(*given, **named)

    def register_signal_handlers(*_: Any, exit_handlers: Sequence[Any] = (), **__: Any) -> None:
        for handler in exit_handlers:
            add_exit_handler(handler)

    flower.pull_task_input, flower.push_message = pull_task_input, push_message
    flower.push_task_output = push_task_output
    flower.register_signal_handlers = register_signal_handlers


if __name__ == "__main__":
    main()
