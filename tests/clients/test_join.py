"""Joining, seen from the site: keys stay, a request leaves, an admission comes back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from clients import join
from clients.site_file import load_site
from common.errors import InputError
from common.joining import Invitation, Request, read_file


def write_invitation(path: Path, expires: str = "2100-01-01") -> Path:
    """As a center writes it; here its authority is a stand-in that signs nothing."""
    given = Invitation(
        consortium="test", site="ada", address="center.example:9443", ca="CA", token="secret",
        expires=datetime.fromisoformat(expires).replace(tzinfo=UTC),
    )  # fmt: skip
    path.write_text(given.model_dump_json())
    return path


def ask(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir(exist_ok=True)
    invitation = write_invitation(tmp_path / "invitation")
    return join.ask(invitation, tmp_path / "site", data=tmp_path / "images", role="source")


def test_private_keys_are_made_here_and_stay(tmp_path: Path) -> None:
    request = ask(tmp_path).read_text()
    for name in (join.SITE_KEY, join.NODE_KEY, join.LEDGER_KEY):
        path = tmp_path / "site" / name
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
        body = "".join(path.read_text().splitlines()[1:-1])
        assert body[:40] not in request
    assert "PRIVATE" not in request
    assert "secret" not in request


def test_the_request_is_what_the_center_needs(tmp_path: Path) -> None:
    request = read_file(ask(tmp_path), Request)
    assert request.is_sealed_by("secret")
    assert not request.is_sealed_by("another")
    assert x509.load_pem_x509_csr(request.certificate.encode()).is_signature_valid
    node = load_ssh_private_key((tmp_path / "site" / join.NODE_KEY).read_bytes(), None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert isinstance(node.curve, ec.SECP384R1)
    assert len(bytes.fromhex(request.ledger_key)) == 32


def test_asked_again_the_keys_are_the_same(tmp_path: Path) -> None:
    first, second = (read_file(ask(tmp_path), Request) for _ in range(2))
    assert first.node_key == second.node_key
    assert first.ledger_key == second.ledger_key


def test_the_site_file_is_sound_and_never_written_over(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "site" / join.SITE_FILE
    found = load_site(path)
    assert found.site.name == "ada"
    assert found.site.role == "source"
    assert found.site.data_folder == tmp_path / "images"
    assert found.upstream.address == "center.example:9443"
    assert found.gate.node_key == tmp_path / "site" / join.NODE_KEY
    assert not found.network.allow_open_network
    path.write_text(path.read_text().replace('"source"', '"target"'))
    ask(tmp_path)
    assert load_site(path).site.role == "target"


def test_an_invitation_that_has_ended(tmp_path: Path) -> None:
    invitation = write_invitation(tmp_path / "invitation", "2001-01-01")
    with pytest.raises(InputError, match="ended on 2001-01-01"):
        join.ask(invitation, tmp_path / "site", data=tmp_path, role="target")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "sonofed-admission-1"}'])
def test_files_that_are_no_invitation(tmp_path: Path, text: str) -> None:
    (tmp_path / "invitation").write_text(text)
    with pytest.raises(InputError, match="is no invitation"):
        join.ask(tmp_path / "invitation", tmp_path / "site", data=tmp_path, role="target")


def test_an_admission_without_keys(tmp_path: Path) -> None:
    ask(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        join.take(tmp_path / "none", tmp_path / "site")
