"""Strace's record is read right, and what leads out is seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.audit import connections
from scripts.audit.connections import Connection

RECORD = """\
10  execve("/usr/bin/python3", ["python3", "-m", "server.main", "--x"], 0x7ffe /* 3 vars */) = 0
10  clone3({flags=CLONE_VM}, 88 <unfinished ...>
12  connect(4, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("192.0.2.1")}, 16 <unfinished ...>
10  <... clone3 resumed>) = 12
11  execve("/usr/bin/nope", ["nope"], 0x7ffe /* 3 vars */) = -1 ENOENT (No such file or directory)
12  <... connect resumed>) = -1 EINPROGRESS (Operation now in progress)
12  sendto(5, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("8.8.8.8")}, 16) = 1
10  sendto(6, "hello"..., 5, 0, NULL, 0) = 5
10  bind(7, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
10  bind(7, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("0.0.0.0")}, 16) = -1 EACCES (Permission denied)
10  connect(8, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 ENETUNREACH (Network is unreachable)
10  connect(8, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT (No such file or directory)
10  bind(9, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 0
13  execve("/x/guard.py", ["/x/python", "/x/engines/guard.py", "a"], 0x7ffe /* 3 vars */) = 0
13  connect(4, {sa_family=AF_INET, sin_port=htons(9701), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
"""  # noqa: E501


def test_a_record_is_read(tmp_path: Path) -> None:
    path = tmp_path / "strace"
    path.write_text(RECORD)
    assert connections.read(path) == [
        Connection("python -m server.main", "connect", "IPv4", "192.0.2.1:443", "EINPROGRESS"),
        Connection("python -m server.main", "sendto", "IPv4", "8.8.8.8:53", "ok"),
        Connection("python -m server.main", "bind", "IPv4", "127.0.0.1:0", "ok"),
        Connection("python -m server.main", "bind", "IPv4", "0.0.0.0:80", "EACCES"),
        Connection("python -m server.main", "connect", "IPv6", "[2001:db8::1]:443", "ENETUNREACH"),
        Connection("python -m server.main", "connect", "unix", "/var/run/nscd/socket", "ENOENT"),
        Connection("python -m server.main", "bind", "AF_NETLINK", "", "ok"),
        Connection("guard.py", "connect", "IPv4", "127.0.0.1:9701", "ok"),
    ]


def test_what_leads_out_is_told_from_what_stays() -> None:
    def one(call: str, family: str, address: str) -> Connection:
        return Connection("x", call, family, address, "ok")

    assert one("connect", "IPv4", "10.0.0.1:80").leads_out
    assert one("sendto", "IPv6", "[fe80::1]:80").leads_out
    assert one("connect", "AF_VSOCK", "").leads_out
    assert not one("connect", "IPv4", "127.0.0.1:80").leads_out
    assert not one("connect", "unix", "/run/x").leads_out
    assert one("bind", "IPv4", "0.0.0.0:80").listens_out
    assert one("bind", "IPv6", "[::]:80").listens_out
    assert not one("bind", "IPv4", "127.0.0.1:0").listens_out


PROGRAM = """
import socket, subprocess, sys, threading

def call():
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("192.0.2.7", 80))
    socket.socket(type=socket.SOCK_DGRAM).connect(("198.51.100.1", 53))

thread = threading.Thread(target=call)
thread.start()
thread.join()
if len(sys.argv) < 2:
    subprocess.run([sys.executable, __file__, "again"], check=True)
"""


@pytest.mark.skipif(not connections.is_there(), reason="strace is not installed")
def test_threads_and_children_are_watched(tmp_path: Path) -> None:
    script, record = tmp_path / "caller.py", tmp_path / "strace"
    script.write_text(PROGRAM)
    command = connections.traced([sys.executable, str(script)], record)
    done = subprocess.run(command, env={**os.environ}, check=False)
    if not record.exists() or done.returncode:
        pytest.skip("strace may not watch processes here")
    found = connections.read(record)
    assert {(one.program, one.address) for one in found if one.leads_out} == {
        ("caller.py", "192.0.2.7:80"),
        ("caller.py", "198.51.100.1:53"),
    }
