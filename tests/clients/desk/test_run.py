"""The desk as a process: its socket, and how the browser comes by the link."""

import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from clients.desk import run
from clients.desk.run import OPENER, bound, serve
from common.errors import InputError


def test_only_on_the_loopback() -> None:
    with bound(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be had"):
            bound(port)
        assert listening.family == socket.AF_INET


class Nobody:
    """A desk that nobody looks at."""

    def __init__(self, folder: Path) -> None:
        self.site = type("Site", (), {"name": "bo", "folder": folder})
        self.wanted: list[str] = []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was given; the server itself ends at once, as by Ctrl+C."""
    found: list[str] = []

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", found.append)
    monkeypatch.setattr("uvicorn.Server.run", stop)
    monkeypatch.setattr(run, "make_app", lambda desk: None)
    return found


def test_the_link_is_no_process_argument(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    seen: list[tuple[int, str]] = []

    def look(address: str) -> None:
        opened.append(address)
        path = Path(address.removeprefix("file://"))
        seen.append((stat.S_IMODE(path.stat().st_mode), path.read_text()))

    monkeypatch.setattr("webbrowser.open", look)
    (tmp_path / OPENER).write_text("left by a desk that was killed")
    (tmp_path / OPENER).chmod(0o666)
    said: list[str] = []
    serve(Nobody(tmp_path), 0, browser=True, say=said.append)  # type: ignore[arg-type]
    link = said[0].partition(": ")[2]
    assert link.startswith("http://127.0.0.1:")
    assert opened == [(tmp_path / OPENER).as_uri()]
    (mode, text), = seen  # fmt: skip
    assert mode == 0o600
    assert link in text
    assert not (tmp_path / OPENER).exists()
    assert said[-1] == "desk closed; all that was said is saved"


@pytest.mark.parametrize("browser", [True, False])
def test_without_a_screen_the_link_is_only_told(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, browser: bool
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if not browser:
        monkeypatch.setenv("DISPLAY", ":0")
    said: list[str] = []
    serve(Nobody(tmp_path), 0, browser=browser, say=said.append)  # type: ignore[arg-type]
    assert opened == []
    assert "/enter?token=" in said[0]
    assert list(tmp_path.iterdir()) == []
