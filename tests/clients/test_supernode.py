"""What training code finds where it runs: no network, no keys, nothing to change but its own."""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.gate.network import is_open
from clients.settings import SiteSettings
from clients.supernode import SuperNode, can_be_shut_in, free_port, owner_of
from common.config.data import DataSpec
from common.errors import InputError
from common.keeper import descendants, is_over

pytestmark = pytest.mark.skipif(not can_be_shut_in(), reason="no user namespaces here")
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


class Shell(SuperNode):
    """Runs a shell script where SuperNode and training would run."""

    script = ""

    def commands(self, told: Path) -> list[list[str]]:
        return [["/bin/bash", "-c", self.script + "\necho done\nsleep 60"]]


def node(base: Path, **more: object) -> Shell:
    for name in ("data", "gate"):
        (base / name).mkdir()
    (base / "gate" / "node.key").write_text("secret")
    (base / "data" / "index.csv").write_text("rows")
    settings = SiteSettings(
        name="ada", role="target", data=DataSpec(folder="data"), data_root=base,
        folder=base / "work", cache=base / "cache",
    )  # fmt: skip
    given: dict[str, object] = {"listen": "127.0.0.1:9701", **more}
    return Shell(settings=settings, hidden=(base / "gate",), log=base / "log", **given)  # type: ignore[arg-type]


@contextmanager
def started(shell: Shell, script: str) -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket]]:
    object.__setattr__(shell, "script", script)
    process, listener = shell.start()
    try:
        yield process, listener
    finally:
        process.terminate()
        process.wait(30)
        listener.close()


def said(shell: Shell, script: str) -> str:
    with started(shell, script):
        end = time.monotonic() + 60
        while "done" not in (told := shell.log.read_text()):
            assert time.monotonic() < end, told
            time.sleep(0.05)
    return told.partition("done")[0]


def test_it_sees_no_network_but_its_own_loopback(tmp_path: Path) -> None:
    told = said(node(tmp_path), "cat /proc/net/dev; timeout 5 bash -c '</dev/tcp/192.0.2.1/80'")
    interfaces = [line.split(":")[0].strip() for line in told.splitlines() if ":" in line]
    assert "lo" in interfaces
    assert not {"eth0", "ens3", "docker0"} & set(interfaces)
    assert "Network is unreachable" in told


def test_the_listening_socket_is_heard_outside(tmp_path: Path) -> None:
    """What is said inside to the one address arrives at the socket that came out."""
    shell = node(tmp_path)
    with started(shell, "exec 3<>/dev/tcp/127.0.0.1/9701; echo hello >&3") as (_, listener):
        listener.settimeout(30)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(64) == b"hello\n"
        assert not is_open(listener)
    # Outside there is nobody at that address.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9701)) != 0


def test_keys_are_not_to_be_seen_nor_uncovered(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    told = said(
        node(tmp_path),
        f"ls -A {gate} | wc -l; cat {gate}/node.key; umount {gate}; "
        f"unshare -Urm sh -c 'umount {gate}; cat {gate}/node.key'; true",
    )
    assert told.splitlines()[0] == "0"
    assert "secret" not in told


def test_data_can_be_read_and_not_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    told = said(node(tmp_path), f"cat {data}/index.csv; echo; echo x >> {data}/index.csv")
    assert told.startswith("rows")
    assert "Read-only file system" in told
    assert (data / "index.csv").read_text() == "rows"


def test_only_its_own_folders_can_be_written(tmp_path: Path) -> None:
    """A site's policy and code lie beside: training must not change what judges it."""
    own = " ".join(str(tmp_path / name / "a") for name in ("work", "cache"))
    others = f"{tmp_path}/policy.toml {__file__} /etc/passwd $HOME/../.bashrc"
    told = said(node(tmp_path), f"touch {own} && echo own; for f in {others}; do touch $f; done")
    assert told.startswith("own")
    assert told.count("Read-only file system") == 4


def test_it_has_no_privilege_and_gets_none(tmp_path: Path) -> None:
    told = said(
        node(tmp_path),
        "grep -E 'CapEff|CapPrm|NoNewPrivs' /proc/self/status; id -u; "
        "mount -o remount,rw / ; ls /proc | grep -c '^[0-9]'",
    ).splitlines()
    values = dict(line.split(":\t") for line in told if ":\t" in line)
    assert int(values["CapEff"], 16) == int(values["CapPrm"], 16) == 0
    assert values["NoNewPrivs"] == "1"
    assert "0" not in told[:4]
    assert int(told[-1]) < 10  # processes of the machine are not its own to see


def test_nothing_secret_is_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSPITAL_PASSWORD", "hunter2")
    told = said(node(tmp_path), "env")
    assert "hunter2" not in told
    assert "FLWR_TELEMETRY_ENABLED=0" in told
    assert "HF_HUB_OFFLINE=1" in told


def test_the_folder_of_own_parts_is_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOFED_PARTS", "/opt/parts")
    assert "SONOFED_PARTS=/opt/parts" in said(node(tmp_path), "env")


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=AS_ROOT)])
@pytest.mark.parametrize(
    ("open_network", "script", "processes"),
    [(False, "setsid sleep 1000 & sleep 1000", 3), (True, "exec sleep 1000", 1)],
)
def test_nothing_of_it_is_left(
    tmp_path: Path, user: str, open_network: bool, script: str, processes: int
) -> None:
    """Whoever changes its user forgets that it was to end with its parent, unless told anew."""
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o755)
    shell = node(
        tmp_path,
        listen=f"127.0.0.1:{free_port()}",
        owner=owner_of(user),
        open_network=open_network,
    )
    with started(shell, script) as (process, _):
        end = time.monotonic() + 30
        while len(descendants(process.pid)) < processes:
            assert time.monotonic() < end
            time.sleep(0.05)
        below = descendants(process.pid)
        process.kill()
        process.wait()
        while not all(map(is_over, below)):
            assert time.monotonic() < end + 30, "something goes on"
            time.sleep(0.05)


def test_where_it_cannot_be_shut_in_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = node(tmp_path)
    monkeypatch.setattr(Shell, "_emptied", lambda self: ["/no/such/folder"])
    with pytest.raises(InputError, match="cannot be shut into an empty network") as caught:
        broken.start()
    assert "allow_open_network" in str(caught.value)


def test_an_open_network_must_be_asked_for(tmp_path: Path) -> None:
    """Then it is the machine's own network, and everything still ends with it."""
    port = free_port()
    shell = node(tmp_path, listen=f"127.0.0.1:{port}", open_network=True)
    with started(shell, "sleep 1000") as (process, listener):
        assert listener.getsockname() == ("127.0.0.1", port)
        assert is_open(listener)
        below = descendants(process.pid)
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
    # They die of their parent's death, a moment after it.
    until = time.monotonic() + 30
    while (left := [pid for pid in below if not is_over(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def test_a_port_that_somebody_has(tmp_path: Path) -> None:
    """In the machine's own network; it is no matter of an empty one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        shell = node(tmp_path, listen=listen, open_network=True)
        with pytest.raises(InputError, match=f"{listen} cannot be had .*in use") as caught:
            shell.start()
    assert "empty network" not in str(caught.value)


@AS_ROOT
def test_root_runs_it_as_another_user(tmp_path: Path) -> None:
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o755)
    shell = node(tmp_path, owner=owner_of("nobody"))
    (tmp_path / "gate").chmod(0o700)
    own = tmp_path / "work" / "a"
    told = said(shell, f"id -un; touch {own} && echo own; cat {tmp_path}/data/index.csv")
    assert told.split() == ["nobody", "own", "rows"]
    assert own.owner() == "nobody"


def test_users_that_there_are_not() -> None:
    with pytest.raises(InputError, match="knows no user 'no-such-user'"):
        owner_of("no-such-user")
    assert owner_of("") is None
    assert owner_of(pwd.getpwuid(os.getuid()).pw_name) is None
