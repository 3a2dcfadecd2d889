"""However a ClientApp ends, its SuperNode does not wait for ever."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from clients import executor
from clients.executor import GAVE, GIVING, GOT
from clients.supernode import EXECUTOR, free_port
from common.environment import SWITCHES
from common.keeper import children, die_with_parent

TERM = signal.SIGTERM


def saw(work: Callable[[int], NoReturn], number: int | None = None) -> bytes:
    """What a fork had said when it ended; by a signal, once it has said something."""
    forks: dict[int, int] = {}
    executor.start(forks, work)
    ((pid, pipe),) = forks.items()
    if number is not None:
        first = os.read(pipe, 1)
        os.kill(pid, number)
        return first + one(forks)
    return one(forks)


def one(forks: dict[int, int]) -> bytes:
    until = time.monotonic() + 60
    while not (found := executor.ended(forks)):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert forks == {}
    return found[0]


def flowers(finished: Path, patch: pytest.MonkeyPatch, **parts: Any) -> Callable[[int], NoReturn]:
    """Flower's own ClientApp process, with some parts played; nobody is at its address."""
    from flwr.supernode.runtime import run_clientapp as flower

    patch.setattr(flower, "push_task_output", lambda **_: finished.touch())
    for name, part in parts.items():
        patch.setattr(flower, name, part)
    return functools.partial(executor.run, f"127.0.0.1:{free_port()}", "token")


def sleeps(*_: object) -> NoReturn:
    time.sleep(60)
    raise AssertionError


def fails(*_: object) -> NoReturn:
    raise RuntimeError("No messages received from Runtime API")


def test_an_instruction_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower would end the task without an answer; here both start anew."""
    finished = tmp_path / "finished"
    said = saw(flowers(finished, monkeypatch, pull_task_input=fails))
    assert not finished.exists()
    assert (said, executor.strands(said)) == (b"", True)


@pytest.mark.parametrize("number", [TERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_signal_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The task is not ended, so the SuperNode finds out that its heartbeat is missing."""
    fab = SimpleNamespace(content=b"", hash_str="")
    run = SimpleNamespace(fab_id="a/b", fab_version="1", run_id=1)
    got = (object(), object(), run, fab)
    finished = tmp_path / "finished"
    work = flowers(
        finished, monkeypatch, pull_task_input=lambda _: got,
        install_from_fab=lambda *_, **__: None, get_project_dir=sleeps,
    )  # fmt: skip
    said = saw(work, number)
    assert not finished.exists()
    assert (said, executor.strands(said)) == (GOT, False)


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        (b"", True),
        (GOT, False),
        (GOT + GIVING, True),
        (GOT + GIVING + GAVE, False),
    ],
)
def test_where_a_supernode_would_wait_for_ever(said: bytes, waits: bool) -> None:
    assert executor.strands(said) == waits


def played(push: Callable[[], None]) -> tuple[Any, list[str]]:
    """Flower's module as far as it is changed; and what happened."""
    told: list[str] = []
    flower = SimpleNamespace(
        pull_task_input=lambda client: "instruction",
        push_message=lambda client, message, context: push(),
        push_task_output=lambda **_: told.append("finished"),
        register_signal_handlers=None,
    )
    executor.end_tasks_only_when_answered(flower, lambda word: told.append(word.decode()))
    return flower, told


def test_a_task_that_was_answered_is_ended() -> None:
    flower, told = played(lambda: None)
    assert flower.pull_task_input("client") == "instruction"
    flower.push_message("client", "message", "context")
    flower.push_task_output(client="client")
    assert told == [GOT.decode(), GIVING.decode(), GAVE.decode(), "finished"]


def test_half_an_answer_ends_no_task() -> None:
    flower, told = played(fails)
    flower.pull_task_input("client")
    with pytest.raises(RuntimeError):
        flower.push_message("client", "message", "context")
    flower.push_task_output(client="client")
    assert told == [GOT.decode(), GIVING.decode()]


def test_code_that_answers_nothing_ends_no_task() -> None:
    flower, told = played(lambda: None)
    flower.pull_task_input("client")
    flower.push_task_output(client="client")
    assert told == [GOT.decode()]


def test_flowers_process_is_the_one_that_is_changed() -> None:
    """Each name is one that Flower's function looks up in its module when it runs."""
    from flwr.supernode.runtime import run_clientapp as flower

    names = {
        "pull_task_input", "push_message", "push_task_output", "register_signal_handlers"
    }  # fmt: skip
    code = flower.run_clientapp.__code__
    inner = [part for part in code.co_consts if hasattr(part, "co_names")]
    assert names <= {name for part in (code, *inner) for name in part.co_names}


APP = {
    "pyproject.toml": """
[project]
name = "sleeper"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "test"
[tool.flwr.app.components]
serverapp = "sleeper.server:app"
clientapp = "sleeper.client:app"
[tool.flwr.app.config]
""",
    "sleeper/__init__.py": "",
    "sleeper/client.py": """
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def work(message, context):
    Path({folder!r}, "at-work").touch()
    time.sleep(600)
    return Message(RecordDict(), reply_to=message)
""",
    "sleeper/server.py": """
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.5)
    (number,) = grid.push_messages([Message(RecordDict(), nodes[0], "query", ttl=3600)])
    while not (replies := list(grid.pull_messages([number]))):
        time.sleep(0.5)
    Path({folder!r}, "code").write_text(str(replies[0].error.code))
""",
}


@contextmanager
def running(folder: Path, *command: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of Flower's, its words in a file; it ends with the test."""
    environment = {**os.environ, **SWITCHES, "FLWR_HOME": str(folder / "home")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command], env=environment, cwd=folder, stdout=log, stderr=log,
            preexec_fn=die_with_parent(),
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_hears_of_code_that_was_told_to_stop(tmp_path: Path) -> None:
    """Flower's SuperLink, SuperNode and this executor: SIGTERM to the fork at work."""
    for name, text in APP.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{folder!r}", repr(str(tmp_path))))
    link, runtime = free_port(), free_port()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    binaries = Path(sys.executable).parent
    with (
        running(
            tmp_path, binaries / "flower-superlink", "--insecure", "--host", "127.0.0.1",
            "--port", link, "--disable-runtime-dependency-installation",
        ),
        running(
            tmp_path, binaries / "flower-supernode", "--insecure", "--superlink",
            f"127.0.0.1:{link}", "--host", "127.0.0.1", "--port", runtime,
            "--isolation", "process",
        ),
        running(
            tmp_path, sys.executable, "-P", EXECUTOR, "--runtime-api-address",
            f"127.0.0.1:{runtime}",
        ) as parent,
    ):  # fmt: skip
        time.sleep(5)
        submit = [str(binaries / "flwr"), "run", str(tmp_path / "app"), "here"]
        with running(tmp_path, *submit) as submitting:
            assert submitting.wait(60) == 0, (tmp_path / "log").read_text()
        wait_for((tmp_path / "at-work").exists, 120)
        (fork,) = children(parent.pid)
        os.kill(fork, TERM)
        wait_for((tmp_path / "code").exists, 150)
        assert parent.poll() is None
    from flwr.common.constant import ErrorCode

    wait_for((tmp_path / "code").read_text, 10)
    assert int((tmp_path / "code").read_text()) == ErrorCode.CLIENT_APP_CRASHED
