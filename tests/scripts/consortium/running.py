"""A running center, and what its sites send."""

import http.client
import ssl
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
)
from flwr.supercore.date import now as flwr_now
from flwr.supercore.primitives.asymmetric import sign_message

from clients import join
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.place import Place


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


def wait_for(condition: "object", seconds: float = 20.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.2)
