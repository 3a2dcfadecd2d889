"""The way out: one address, both certificates, no redirect, nothing from the environment."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.gate.node_key import make_node_key, read_node_key
from clients.gate.upstream import RunOverError, Transport, Upstream, UpstreamError, tls
from common.errors import InputError
from tests.clients.gate.center import NODE, Center, Keys


@pytest.fixture
def node_key(tmp_path: Path) -> Path:
    make_node_key(tmp_path / "node.key")
    return tmp_path / "node.key"


def upstream(center: Center, key: Path, *, proxy: str = "", keys: Keys | None = None) -> Upstream:
    held = keys or center.keys
    context = tls(held.ca, held.certificate, held.key)
    return Upstream(Transport(center.address, context, read_node_key(key), proxy))


def test_a_call_and_what_it_carries(center: Center, node_key: Path) -> None:
    assert upstream(center, node_key).activate() == NODE
    ((route, headers, _),) = center.calls
    assert route == "activate-node"
    # Nothing says what machine, system or library this is.
    assert {name.lower() for name in headers} == {
        "host", "accept", "accept-encoding", "connection", "user-agent", "content-type",
        "content-length", "flwr-public-key", "flwr-timestamp", "flwr-signature",
    }  # fmt: skip
    told = {name.lower(): value for name, value in headers.items()}
    assert told["user-agent"] == "sonofed-gate"
    assert told["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(keys: Keys, node_key: Path, status: int) -> None:
    with Center(keys) as center, Center(keys) as elsewhere:
        center.location = f"https://{elsewhere.address}/v1/fleet/activate-node"
        center.fail["activate-node"] = [status]
        with pytest.raises(UpstreamError) as caught:
            upstream(center, node_key).activate()
        assert caught.value.status == status
        assert not elsewhere.calls


def test_proxies_of_the_environment_are_ignored(
    center: Center, node_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forwarder() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        monkeypatch.setenv("SSLKEYLOGFILE", str(node_key.parent / "keys.log"))
        assert upstream(center, node_key).activate() == NODE
        assert not proxy.asked
    assert not (node_key.parent / "keys.log").exists()


def test_the_files_own_proxy_is_asked_to_connect(center: Center, node_key: Path) -> None:
    with forwarder() as proxy:
        assert upstream(center, node_key, proxy=proxy.address).activate() == NODE
        ((line, rest),) = proxy.asked
    assert line == f"CONNECT {center.address} HTTP/1.1"
    # The proxy learns where to, and nothing of what.
    assert "flwr" not in rest.lower()


def test_only_the_consortiums_authority_is_trusted(
    center: Center, node_key: Path, tmp_path: Path
) -> None:
    other = Keys.make(tmp_path / "other")
    keys = Keys(other.ca, center.keys.certificate, center.keys.key, other.server, other.key)
    with pytest.raises(UpstreamError, match="certificate"):
        upstream(center, node_key, keys=keys).activate()
    assert not center.calls


def test_the_center_sees_this_sites_certificate_or_nothing(
    center: Center, node_key: Path, tmp_path: Path
) -> None:
    other = Keys.make(tmp_path / "other")
    keys = Keys(center.keys.ca, other.certificate, other.key, other.server, other.server_key)
    with pytest.raises(UpstreamError):
        upstream(center, node_key, keys=keys).activate()
    assert not center.calls


def test_what_the_center_may_say(center: Center, node_key: Path) -> None:
    out = upstream(center, node_key)
    for status, kind in ((403, RunOverError), (401, UpstreamError), (503, UpstreamError)):
        center.fail["get-run"] = [status]
        with pytest.raises(UpstreamError) as caught:
            out.run(NODE, 1)
        assert type(caught.value) is kind
        assert caught.value.status == status
    center.fail["get-run"] = [0]
    with pytest.raises(UpstreamError) as caught:
        out.run(NODE, 1)
    assert caught.value.status == 0


def test_an_endless_answer_ends(
    center: Center, node_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.gate.upstream.LARGEST_ANSWER", 10)
    with pytest.raises(UpstreamError, match="more than 10 bytes"):
        upstream(center, node_key).bundle(NODE, 1, "0" * 64)


def test_keys_that_are_none_are_told_in_plain_words(keys: Keys, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(InputError, match="is no certificate of an authority"):
        tls(nothing, keys.certificate, keys.key)
    with pytest.raises(InputError, match="are no certificate and its key"):
        tls(keys.ca, keys.certificate, keys.server_key)
    nothing.write_text("no key")
    with pytest.raises(InputError, match="is no node key"):
        read_node_key(nothing)
    open_key = tmp_path / "node.key"
    make_node_key(open_key)
    assert open_key.stat().st_mode & 0o777 == 0o600
    open_key.chmod(0o640)
    with pytest.raises(InputError, match=r"others may read it; chmod 600"):
        read_node_key(open_key)


class Forwarder:
    """An HTTP proxy that knows CONNECT."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[tuple[str, str]] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return "127.0.0.1:{1}".format(*self.listener.getsockname())

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(connection,), daemon=True).start()

    def _forward(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        line, _, rest = head.decode().partition("\r\n")
        self.asked.append((line, rest))
        host, _, port = line.split(" ")[1].rpartition(":")
        with connection, socket.create_connection((host, int(port))) as other:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                for end in select.select([connection, other], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    (other if end is connection else connection).sendall(data)


@contextmanager
def forwarder() -> Iterator[Forwarder]:
    proxy = Forwarder()
    yield proxy
    proxy.listener.close()
