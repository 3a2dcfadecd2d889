"""The consortium's certificate authority: it signs what sites ask for and its own two servers.

Keys are ECDSA P-384. The authority's own key stays in its folder, readable by its owner alone;
a site's private key never comes here, only its signed request does.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InputError
from server.consortium.place import Place, write_file

CA_DAYS, SERVER_DAYS, SITE_DAYS = 3650, 825, 365
BEFORE = timedelta(hours=1)
"""A certificate holds from a little earlier: clocks differ."""
CRL_DAYS = 3650
"""The list is written anew on every change; it must not lapse between."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, unencrypted: its file is for its owner's eyes only."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def serial_text(serial: int) -> str:
    """A serial number as nginx writes it: hexadecimal, capitals, whole bytes."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


@dataclass(frozen=True)
class Authority:
    """The authority, its key read.

    Attributes:
        certificate: Its own certificate.
        key: Its key.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, place: Place, name: str) -> "Authority":
        """Make a new authority; its files are written."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        now = datetime.now(UTC)
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BEFORE)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA384())
        )
        found = cls(certificate, key)
        write_file(place.authority / "ca.key", key_pem(key), 0o600)
        place.authority.chmod(0o700)
        write_file(place.ca, pem(certificate))
        found.write_crl(place, [])
        return found

    @classmethod
    def read(cls, place: Place) -> "Authority":
        """Read the authority of a consortium.

        Raises:
            InputError: If it is not there.
        """
        try:
            key = serialization.load_pem_private_key(
                (place.authority / "ca.key").read_bytes(), password=None
            )
            certificate = x509.load_pem_x509_certificate(place.ca.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{place.authority}: holds no authority ({error})") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{place.authority / 'ca.key'}: is no key of this authority")
        return cls(certificate, key)

    def server(self, folder: Path, name: str, hosts: Sequence[str]) -> x509.Certificate:
        """Make key and certificate of a server of ours: `NAME.key` and `NAME.pem`.

        Args:
            folder: Where they go.
            name: The server's.
            hosts: Host names and addresses that it is reached by.
        """
        key = new_key()
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            key.public_key(),
            SERVER_DAYS,
            ExtendedKeyUsageOID.SERVER_AUTH,
            [_host(host) for host in hosts],
        )
        write_file(folder / f"{name}.key", key_pem(key), 0o600)
        write_file(folder / f"{name}.pem", pem(certificate))
        return certificate

    def site(
        self, name: str, request: x509.CertificateSigningRequest, days: float = SITE_DAYS
    ) -> x509.Certificate:
        """Sign a site's request. Of it only the key counts; the name is the invitation's.

        Args:
            name: The site's.
            request: Signed by the site's own key.
            days: How long the certificate holds.

        Raises:
            InputError: If the request's signature is not its key's, or the key no P-384 key.
        """
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP384R1
        ):
            raise InputError(f"site {name}: its request holds no ECDSA P-384 key")
        if not request.is_signature_valid:
            raise InputError(f"site {name}: its request is not signed by its own key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._sign(subject, key, days, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def write_crl(self, place: Place, serials: Iterable[int]) -> None:
        """Write the list of revoked certificates.

        Args:
            place: The consortium's.
            serials: Of all revoked certificates.
        """
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BEFORE)
            .next_update(now + timedelta(days=CRL_DAYS))
        )
        for serial in sorted(set(serials)):
            revoked = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
            builder = builder.add_revoked_certificate(revoked)
        crl = builder.sign(self.key, hashes.SHA384())
        write_file(place.crl, crl.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: float,
        purpose: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BEFORE)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA384())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
