"""Who belongs to a consortium: each way in, and each way that is none."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError
from common.joining import Admission, Request
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.authority import Authority, new_key, serial_text
from server.consortium.place import Place, locked


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "center")
    membership.found(
        found, "test", "center.example:9443", "127.0.0.1:9443", 9000, 9001, ["10.0.0.1"]
    )
    return found


def node_key() -> str:
    key = new_key().public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def csr(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None = None) -> str:
    key = key or new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def request(place: Place, site: str = "ada", *, again: bool = False, **changes: str) -> Request:
    token = membership.invite(place, site, again=again).token
    asked = Request(site=site, certificate=csr(), node_key=node_key())
    return asked.model_copy(update=changes).sealed(token)


def test_secrets_are_their_owners_alone(place: Place) -> None:
    for path in (
        place.authority / "ca.key", place.front / "front.key", place.superlink / "superlink.key",
        place.register,
    ):  # fmt: skip
        assert path.stat().st_mode & 0o077 == 0, path


def test_servers_are_called_what_they_are(place: Place) -> None:
    authority = x509.load_pem_x509_certificate(place.ca.read_bytes())
    names = {}
    for path in (place.front / "front.pem", place.superlink / "superlink.pem"):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = map(str, found.get_values_for_type(x509.IPAddress))
        names[path.name] = [*found.get_values_for_type(x509.DNSName), *addresses]
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert names == {
        "front.pem": ["center.example", "10.0.0.1"], "superlink.pem": ["localhost", "127.0.0.1"]
    }  # fmt: skip


def test_a_site_is_admitted(place: Place) -> None:
    asked = request(place)
    given = membership.admit(place, asked)
    certificate = x509.load_pem_x509_certificate(given.certificate.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(place.ca.read_bytes()))
    # The name is the invitation's, whatever the request calls itself.
    assert certificate.subject.rfc4514_string() == "CN=ada"
    (listed,) = registers.read(place).site("ada").certificates
    assert listed.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    member = registers.read(place).site("ada")
    assert member.node_key == asked.node_key
    assert [c.serial for c in member.certificates] == [serial_text(certificate.serial_number)]
    days = (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)
    assert 364 < days < 366
    assert given.address == "center.example:9443"


def test_an_invitation_is_good_once(place: Place) -> None:
    token = membership.invite(place, "ada").token
    first, second = (
        Request(site="ada", certificate=csr(), node_key=node_key()).sealed(token) for _ in range(2)
    )
    membership.admit(place, first)
    with pytest.raises(InputError, match="used already"):
        membership.admit(place, second)


def test_the_same_request_again_gets_the_same_admission(place: Place) -> None:
    asked, saved = request(place), list[Admission]()
    given = membership.admit(place, asked)
    register = registers.read(place)
    assert membership.admit(place, asked, days=1, save=saved.append) == given
    assert saved == [given]
    assert registers.read(place) == register
    membership.revoke(place, "ada")
    with pytest.raises(InputError, match="was revoked"):
        membership.admit(place, asked)
    membership.invite(place, "ada", again=True)
    with pytest.raises(InputError, match="was revoked"):
        membership.admit(place, asked)


def test_an_admission_that_cannot_be_saved_uses_nothing_up(place: Place) -> None:
    asked = request(place)

    def full(given: Admission) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        membership.admit(place, asked, save=full)
    assert not registers.read(place).sites
    assert membership.admit(place, asked).site == "ada"


def test_an_invitation_ends(place: Place) -> None:
    token = membership.invite(place, "ada", days=-1).token
    asked = Request(site="ada", certificate=csr(), node_key=node_key()).sealed(token)
    with pytest.raises(InputError, match="its invitation ended"):
        membership.admit(place, asked)


def test_a_stranger_was_never_invited(place: Place) -> None:
    with pytest.raises(InputError, match="never invited"):
        membership.admit(place, Request(site="eve", certificate=csr(), node_key=node_key()))


@pytest.mark.parametrize(
    "changes", [{"certificate": csr()}, {"node_key": node_key()}, {"site": "bo"}, {"code": "0"}]
)
def test_a_request_that_was_changed_on_its_way(place: Place, changes: dict[str, str]) -> None:
    membership.invite(place, "bo")
    asked = request(place).model_copy(update=changes)
    with pytest.raises(InputError, match="was not made with the invitation"):
        membership.admit(place, asked)
    assert not registers.read(place).sites


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate": "no request"}, "holds no signing request"),
        ({"certificate": csr(ed25519.Ed25519PrivateKey.generate())}, "no ECDSA P-384 key"),
        ({"certificate": csr(ec.generate_private_key(ec.SECP256R1()))}, "no ECDSA P-384 key"),
        ({"node_key": "no key"}, "holds no node key"),
        ({"node_key": node_key() + "\n# more"}, "no ECDSA P-384 key as PEM"),
    ],
)
def test_keys_that_are_none(place: Place, changes: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        membership.admit(place, request(place, again=False, **changes))
    assert not registers.read(place).sites


def test_two_sites_cannot_have_one_node_key(place: Place) -> None:
    asked = request(place)
    membership.admit(place, asked)
    with pytest.raises(InputError, match="is that of the site ada"):
        membership.admit(place, request(place, "bo", node_key=asked.node_key))


def test_renewing_keeps_the_old_certificate_until_it_ends(place: Place) -> None:
    asked = request(place)
    membership.admit(place, asked)
    membership.admit(place, request(place, node_key=asked.node_key))
    member = registers.read(place).site("ada")
    assert len(member.certificates) == 2
    assert all(c.holds(datetime.now(UTC)) for c in member.certificates)


def test_renewing_is_not_for_another_node(place: Place) -> None:
    membership.admit(place, request(place))
    with pytest.raises(InputError, match="is a member with another node key"):
        membership.admit(place, request(place))


def test_revoking_ends_certificates_and_invitations(place: Place) -> None:
    asked = request(place)
    membership.admit(place, asked)
    open_invitation = request(place, node_key=asked.node_key)
    membership.revoke(place, "ada")
    crl = x509.load_pem_x509_crl(place.crl.read_bytes())
    key = Authority.read(place).certificate.public_key()
    assert crl.is_signature_valid(key)  # type: ignore[arg-type]
    member = registers.read(place).site("ada")
    assert [serial_text(one.serial_number) for one in crl] == [member.certificates[0].serial]
    with pytest.raises(InputError):
        membership.admit(place, open_invitation)
    with pytest.raises(InputError, match=r"was revoked on .* invite ada --again"):
        membership.invite(place, "ada")
    assert not any(one.token for one in registers.read(place).invitations["ada"])
    # Let in again, with new keys, it may come back; the old certificate stays revoked.
    membership.admit(place, request(place, again=True))
    member = registers.read(place).site("ada")
    assert [c.holds(datetime.now(UTC)) for c in member.certificates] == [False, True]


def test_what_fails_while_revoking_leaves_the_site_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front's list is there before the register says so."""
    membership.admit(place, request(place))

    def fail(place: Place, register: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(registers, "write", fail)
    with pytest.raises(OSError, match="no space"):
        membership.revoke(place, "ada")
    serials = [one.serial_number for one in x509.load_pem_x509_crl(place.crl.read_bytes())]
    assert len(serials) == 1


@pytest.mark.parametrize("name", ["", "../x", "a b", "a\nb", "-x", "x" * 65, 'a"b', "ä"])
def test_names_that_are_none(place: Place, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a site"):
        membership.invite(place, name)


def test_a_consortium_is_not_founded_over_another(place: Place) -> None:
    with pytest.raises(InputError, match="holds a consortium already"):
        membership.found(place, "other", "x:1", "x:1", 2, 3)


@pytest.mark.parametrize(
    "address", ["center", "https://center:1", "center:0", "center:99999", ":1"]
)
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match="is no host:port"):
        membership.found(Place(tmp_path / "c"), "test", address, "127.0.0.1:1", 2, 3)


def test_where_there_is_no_consortium(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no consortium"):
        membership.invite(Place(tmp_path), "ada")


def test_a_damaged_register_is_told(place: Place) -> None:
    place.register.write_text(json.dumps({"name": "x"}))
    with pytest.raises(InputError, match="cannot be read"):
        registers.read(place)


def test_a_lock_is_not_waited_for_for_ever(place: Place) -> None:
    lock = place.root / "lock"
    with (
        locked(lock),
        pytest.raises(InputError, match="another process changes it just now"),
        locked(lock, 0.1),
    ):
        pass
