"""Who does not get in: each tried against a running front and SuperLink."""

import re
import ssl
from base64 import b64encode
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
from scripts.consortium import keep
from scripts.consortium.front_reload import reload_front
from scripts.study.seen import seen
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.authority import Authority, key_pem, new_key, pem
from server.consortium.control import Control
from server.consortium.place import Place
from server.consortium.register import now
from tests.scripts.consortium.running import (
    Center,
    activate,
    admit,
    context,
    own,
    post,
    public_of,
    signed,
    wait_for,
)


def test_a_member_gets_in(center: Center) -> None:
    assert activate(center, own(center, "ada"), "ada", "ada") == 200


def test_when_a_member_was_seen(center: Center) -> None:
    assert activate(center, own(center, "ada"), "ada", "ada") in (200, 412)
    told = seen(center.place)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d, connected", told["ada"])
    node_id = registers.read(center.place).site("ada").node_id
    with Control(center.place, registers.read(center.place)) as control:
        (node,) = [node for node in control.nodes() if node.node_id == node_id]
    assert node.seen is not None
    assert abs(now() - node.seen) < timedelta(minutes=2)


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


def test_a_request_that_is_played_again_at_once(center: Center) -> None:
    """Flower signs the time and nothing else, so for minutes the same headers are good again.

    Only the site's own certificate gets them to it: whoever has that key too is the site.
    """
    # Where another test had it online before, it is told that it is.
    assert activate(center, own(center, "ada"), "ada", "ada") in (200, 412)
    headers = signed(center.site("ada"))
    node = Node(node_id=registers.read(center.place).site("ada").node_id)
    body = PullMessagesRequest(node=node).SerializeToString()
    certificates = {
        "its own": own(center, "ada"), "none": context(center, None), "bo's": own(center, "bo"),
        "its own again": own(center, "ada"),
    }  # fmt: skip
    answers = {
        name: post(center, tls, "/v1/fleet/pull-messages", body, headers)[0]
        for name, tls in certificates.items()
    }
    assert answers == {"its own": 200, "none": 400, "bo's": 421, "its own again": 200}


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
    first, second = (
        membership.read_request(join.ask(invitation, site, data=site, role="target"))
        for _ in range(2)
    )
    membership.admit(center.place, first)
    with pytest.raises(Exception, match="used already"):
        membership.admit(center.place, second)
    assert registers.read(center.place).site("dee").admitted <= now()
