"""Only this consortium's own nginx is told anything, whoever has its number."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.keeper import stop_process
from scripts.consortium.front_reload import FrontAway, reload_front, write_front
from scripts.ports import free_ports
from server.consortium import front, membership
from server.consortium.place import Place
from tests.scripts.consortium.running import wait_for


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "center")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    membership.found(found, "test", address, address, 9, 9)
    return found


@pytest.fixture
def other() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("text", [None, "", "x", "999999999"])
def test_a_front_that_is_away(place: Place, text: str | None) -> None:
    if text is not None:
        (place.front / "nginx.pid").write_text(text)
    with pytest.raises(FrontAway):
        reload_front(place, {})


def test_another_process_has_its_number_now(place: Place, other: "subprocess.Popen[bytes]") -> None:
    """SIGHUP would end it."""
    (place.front / "nginx.pid").write_text(f"{other.pid}\n")
    with pytest.raises(FrontAway):
        reload_front(place, {"services": {"front": {"pid": other.pid}}})
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(0.5)


def test_its_own_is_told_and_no_other_consortiums(place: Place, tmp_path: Path) -> None:
    write_front(place, {})
    process = subprocess.Popen(front.command(place), env=dict(front.environment()))
    try:
        wait_for(lambda: front.is_master(place, process.pid))
        strange = Place(tmp_path / "strange")
        membership.found(strange, "test", "127.0.0.1:9", "127.0.0.1:9", 9, 9)
        (strange.front / "nginx.pid").write_text(str(process.pid))
        with pytest.raises(FrontAway):
            reload_front(strange, {})
        reload_front(place, {})
        # By its keeper's word, too, whatever has become of the file.
        (place.front / "nginx.pid").write_text("")
        reload_front(place, {"services": {"front": {"pid": process.pid}}})
        assert process.poll() is None
    finally:
        stop_process(process, 10)


def test_where_a_container_listens(place: Place) -> None:
    write_front(place, {"listen": "127.0.0.1:12399", "upstream": "http://127.0.0.1:5"})
    text = (place.front / "nginx.conf").read_text()
    assert "listen 127.0.0.1:12399 ssl;" in text
    assert "server 127.0.0.1:5;" in text
