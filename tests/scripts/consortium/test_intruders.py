"""Who does not get in: each tried against a running front and SuperLink."""

import http.client
import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.date import now as flwr_now
from flwr.supercore.primitives.asymmetric import sign_message

from clients import join
from common.keeper import stop_keeper
from scripts.consortium import keep
from scripts.consortium.front_reload import reload_front
from scripts.keepers import start_keeper
from scripts.ports import free_ports
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.authority import Authority, key_pem, new_key, pem
from server.consortium.place import Place
from server.consortium.register import now


@dataclass(frozen=True)
class Center:
    """A running center with two members, `ada` and `bo`."""

    place: Place
    folder: Path

    def site(self, name: str) -> Path:
        return self.folder / name

    @property
    def port(self) -> int:
        return int(registers.read(self.place).listen.rpartition(":")[2])


def admit(place: Place, folder: Path, name: str, *, days: float = 365) -> Path:
    site = folder / name
    site.mkdir(exist_ok=True)
    invitation, admission = site / "invitation", site / "admission"
    invitation.write_text(membership.invite(place, name).model_dump_json())
    request = join.ask(invitation, site, data=site, role="target")
    given = membership.admit(place, membership.read_request(request), days=days)
    admission.write_text(given.model_dump_json())
    join.take(admission, site)
    return site


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Center]:
    folder = tmp_path_factory.mktemp("intruders")
    place = Place(folder / "center")
    front, superlink, health = free_ports(3)
    address = f"127.0.0.1:{front}"
    membership.found(place, "test", address, address, superlink, health)
    for name in ("ada", "bo"):
        admit(place, folder, name)
    start_keeper("scripts.consortium.keep", place.root, [], folder / "keeper.log", guarded=True)
    try:
        assert keep.wait_healthy(place, registers.read(place)), (folder / "keeper.log").read_text()
        keep.settle(place)
        yield Center(place, folder)
    finally:
        assert stop_keeper(place.status)


def context(center: Center, certificate: Path | None, key: Path | None = None) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(center.place.ca))
    if certificate is not None:
        found.load_cert_chain(certificate, key)
    return found


def own(center: Center, name: str) -> ssl.SSLContext:
    site = center.site(name)
    return context(center, site / join.CERTIFICATE, site / join.SITE_KEY)


def signed(site: Path) -> dict[str, str]:
    """Node authentication with a site's node key, as Flower's own client sends it."""
    key = serialization.load_ssh_private_key((site / join.NODE_KEY).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    at = flwr_now().isoformat()
    return {
        "flwr-public-key": b64encode(public_of(site)).decode(),
        "flwr-timestamp": at,
        "flwr-signature": b64encode(sign_message(key, at.encode())).decode(),
        "content-type": "application/protobuf",
        "flwr-component-name": "SuperNode",
    }


def public_of(site: Path) -> bytes:
    key = serialization.load_ssh_private_key((site / join.NODE_KEY).read_bytes(), password=None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def post(
    center: Center,
    tls: ssl.SSLContext,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    method: str = "POST",
    port: int | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port or center.port, context=tls, timeout=30
    )
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def activate(center: Center, tls: ssl.SSLContext, headers_of: str, key_of: str) -> int:
    body = ActivateNodeRequest(public_key=public_of(center.site(key_of)), heartbeat_interval=30)
    status, _ = post(
        center, tls, "/v1/fleet/activate-node", body.SerializeToString(),
        signed(center.site(headers_of)),
    )  # fmt: skip
    return status


def test_a_member_gets_in(center: Center) -> None:
    assert activate(center, own(center, "ada"), "ada", "ada") == 200


def test_no_certificate(center: Center) -> None:
    status, body = post(center, context(center, None), "/v1/fleet/activate-node")
    assert status == 400
    assert b"No required SSL certificate" in body


def test_a_certificate_of_another_authority(center: Center, tmp_path: Path) -> None:
    stranger = Authority.create(Place(tmp_path), "other")
    key = new_key()
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    certificate = stranger.site("ada", asked.sign(key, hashes.SHA384()))
    (tmp_path / "a.pem").write_bytes(pem(certificate))
    (tmp_path / "a.key").write_bytes(key_pem(key))
    tls = context(center, tmp_path / "a.pem", tmp_path / "a.key")
    status, body = post(center, tls, "/v1/fleet/activate-node", b"", signed(center.site("ada")))
    assert status == 400
    assert b"SSL certificate error" in body


def test_an_expired_certificate(center: Center) -> None:
    site = admit(center.place, center.folder, "eve", days=-0.001)
    tls = context(center, site / join.CERTIFICATE, site / join.SITE_KEY)
    status, body = post(center, tls, "/v1/fleet/activate-node", b"", signed(site))
    assert status == 400
    assert b"SSL certificate error" in body


def test_a_member_that_was_revoked(center: Center) -> None:
    site = admit(center.place, center.folder, "cy")
    keep.settle(center.place)
    reload_front(center.place)
    tls = context(center, site / join.CERTIFICATE, site / join.SITE_KEY)
    wait_for(lambda: activate(center, tls, "cy", "cy") == 200)
    membership.revoke(center.place, "cy")
    reload_front(center.place)
    keep.settle(center.place)
    wait_for(lambda: activate(center, tls, "cy", "cy") == 400)
    # Behind the front its node is gone too.
    body = ActivateNodeRequest(public_key=public_of(site), heartbeat_interval=30)
    status, _ = post(
        center, context(center, None), "/v1/fleet/activate-node", body.SerializeToString(),
        signed(site), port=registers.read(center.place).superlink,
    )  # fmt: skip
    assert status >= 400


def wait_for(condition: "object", seconds: float = 20.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.2)


def test_a_signed_certificate_that_is_in_no_register(center: Center, tmp_path: Path) -> None:
    """Even a certificate of our own authority says nothing without a node key beside it."""
    key = new_key()
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    authority = Authority.read(center.place)
    (tmp_path / "a.pem").write_bytes(pem(authority.site("ada", asked.sign(key, hashes.SHA384()))))
    (tmp_path / "a.key").write_bytes(key_pem(key))
    tls = context(center, tmp_path / "a.pem", tmp_path / "a.key")
    assert activate(center, tls, "ada", "ada") == 403


def test_a_members_certificate_with_another_members_node_key(center: Center) -> None:
    assert activate(center, own(center, "ada"), "bo", "bo") == 421
    assert activate(center, own(center, "bo"), "ada", "ada") == 421


def test_a_member_cannot_ask_for_another_nodes_messages(center: Center) -> None:
    body = ActivateNodeRequest(public_key=public_of(center.site("bo")), heartbeat_interval=30)
    _, answer = post(
        center, own(center, "bo"), "/v1/fleet/activate-node", body.SerializeToString(),
        signed(center.site("bo")),
    )  # fmt: skip
    other = ActivateNodeResponse.FromString(answer).node_id
    asked = PullMessagesRequest(node=Node(node_id=other)).SerializeToString()
    status, _ = post(
        center, own(center, "ada"), "/v1/fleet/pull-messages", asked, signed(center.site("ada"))
    )
    assert status == 401
    status, _ = post(
        center, own(center, "bo"), "/v1/fleet/pull-messages", asked, signed(center.site("bo"))
    )
    assert status == 200


def test_a_request_that_is_played_again_later(center: Center) -> None:
    """A signed time holds for minutes only."""
    site = center.site("ada")
    headers = signed(site)
    at = (flwr_now() - timedelta(minutes=20)).isoformat()
    key = serialization.load_ssh_private_key((site / join.NODE_KEY).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    headers |= {
        "flwr-timestamp": at, "flwr-signature": b64encode(sign_message(key, at.encode())).decode()
    }  # fmt: skip
    body = ActivateNodeRequest(public_key=public_of(site), heartbeat_interval=30)
    tls = own(center, "ada")
    status, _ = post(center, tls, "/v1/fleet/activate-node", body.SerializeToString(), headers)
    assert status == 401


def test_a_member_cannot_register_further_nodes(center: Center) -> None:
    body = RegisterNodeFleetRequest(public_key=public_of(center.site("ada"))).SerializeToString()
    status, _ = post(
        center, own(center, "ada"), "/v1/fleet/register-node", body, signed(center.site("ada"))
    )
    assert status >= 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/control/list-runs", ListRunsRequest().SerializeToString()),
        ("/v1/control/start-run", b""),
        ("/v1/runtime/acquire-task", AcquireTaskRequest().SerializeToString()),
        ("/v1/fleet/../control/list-runs", ListRunsRequest().SerializeToString()),
        ("/v1/fleet/%2e%2e/control/list-runs", ListRunsRequest().SerializeToString()),
        ("/v1/fleet//../../v1/control/list-runs", ListRunsRequest().SerializeToString()),
        ("/v1/fleet", b""),
        ("/health", b""),
        ("/docs", b""),
        ("/openapi.json", b""),
        ("/", b""),
    ],
)
def test_only_the_fleet_is_to_be_had(center: Center, path: str, body: bytes) -> None:
    tls, headers = own(center, "ada"), signed(center.site("ada"))
    assert post(center, tls, path, body, headers)[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_post(center: Center, method: str) -> None:
    tls, headers = own(center, "ada"), signed(center.site("ada"))
    status, _ = post(center, tls, "/v1/fleet/pull-messages", b"", headers, method)
    assert status == 405


def test_large_requests(center: Center) -> None:
    headers = {**signed(center.site("ada")), "content-length": str(9 * 2**20)}
    status, _ = post(center, own(center, "ada"), "/v1/fleet/push-object", b"", headers)
    assert status == 413


def test_the_front_speaks_no_old_tls(center: Center) -> None:
    tls = own(center, "ada")
    tls.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        post(center, tls, "/v1/fleet/pull-messages")


def test_an_invitation_is_good_once(center: Center) -> None:
    site = center.folder / "dee"
    site.mkdir()
    invitation = site / "invitation"
    invitation.write_text(membership.invite(center.place, "dee").model_dump_json())
    request = membership.read_request(join.ask(invitation, site, data=site, role="target"))
    membership.admit(center.place, request)
    with pytest.raises(Exception, match="used already"):
        membership.admit(center.place, request)
    assert registers.read(center.place).site("dee").admitted <= now()
