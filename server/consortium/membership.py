"""Who belongs to a consortium: founding it, inviting, admitting, renewing, revoking."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common import joining
from common.errors import InputError
from common.joining import Admission, Request
from common.versions import versions
from server.consortium import register as registers
from server.consortium.authority import SITE_DAYS, Authority, pem, serial_text
from server.consortium.place import Place
from server.consortium.register import Certificate, Invitation, Register, Site, check_name, now

INVITATION_DAYS = 14.0


def found(
    place: Place,
    name: str,
    address: str,
    listen: str,
    superlink: int,
    health: int,
    hosts: Sequence[str] = (),
) -> Register:
    """Make a consortium: authority, certificates of its two servers, an empty register.

    Args:
        place: Its folder, empty or new.
        name: Its name.
        address: Host and port that sites reach the front by.
        listen: Host and port where the front listens.
        superlink: Loopback port of the SuperLink.
        health: Loopback port of its health service.
        hosts: Further names of the front.

    Raises:
        InputError: If there is one already.
    """
    check_name(name)
    if place.register.exists() or place.authority.exists():
        raise InputError(f"{place.root}: holds a consortium already")
    for what, given in (("address", address), ("listen", listen)):
        check_address(what, given)
    place.root.mkdir(parents=True, exist_ok=True)
    place.root.chmod(0o700)
    authority = Authority.create(place, name)
    host = address.rpartition(":")[0].strip("[]")
    authority.server(place.front, "front", list(dict.fromkeys([host, *hosts])))
    authority.server(place.superlink, "superlink", ["localhost", "127.0.0.1"])
    register = Register(
        name=name, address=address, listen=listen, superlink=superlink, health=health
    )
    registers.write(place, register)
    return register


def invite(
    place: Place,
    site: str,
    *,
    days: float = INVITATION_DAYS,
    study: str = "",
    again: bool = False,
) -> joining.Invitation:
    """Make an invitation. For a member it is one to a new certificate.

    Args:
        place: The consortium's.
        site: The site's name.
        days: How long it holds.
        study: SHA-256 of the study that is planned.
        again: Let a site back in that was revoked.

    Raises:
        InputError: If the site was revoked, and is not to be let in again.
    """
    check_name(site)
    token = secrets.token_urlsafe(32)
    expires = now() + timedelta(days=days)
    with registers.changing(place) as register:
        member = register.sites.get(site)
        renewal = member is not None and member.revoked is None
        if not again:
            check_not_revoked(site, member)
        listed = Invitation(token=token, expires=expires, renewal=renewal)
        register.invitations.setdefault(site, []).append(listed)
    return joining.Invitation(
        consortium=register.name,
        site=site,
        address=register.address,
        ca=place.ca.read_text(encoding="ascii"),
        token=token,
        expires=expires,
        study=study,
        versions=versions(),
    )


def check_not_revoked(site: str, member: Site | None) -> None:
    """A site that was struck off comes back only if somebody says so.

    Raises:
        InputError: If it was struck off.
    """
    if member is not None and member.revoked is not None:
        raise InputError(
            f"{site}: was revoked on {member.revoked:%Y-%m-%d}; to let it in again after all: "
            f"sonofed consortium invite {site} --again"
        )


def admit(
    place: Place,
    request: Request,
    *,
    days: float = SITE_DAYS,
    save: Callable[[Admission], object] | None = None,
) -> Admission:
    """Sign a site's request, and take it into the register. The SuperLink is told elsewhere.

    The same request again gets the same admission again, as long as it holds.

    Args:
        place: The consortium's.
        request: The site's.
        days: How long the certificate holds.
        save: Puts the admission where it is wanted; if that fails, nothing has happened.

    Raises:
        InputError: If no open invitation is the request's, or a key in it is none.
    """
    authority = Authority.read(place)
    site = check_name(request.site)
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
    with registers.changing(place) as register:
        before = _given(register, site, digest)
        if before is not None:
            given = _admission(place, register, site, before)
            if save is not None:
                save(given)
            return given
        invitation = _invitation(register, request)
        member = register.sites.get(site)
        stays = member is not None and member.revoked is None
        if member is not None and stays and member.node_key != request.node_key:
            raise InputError(
                f"site {site}: is a member with another node key; revoke it first if its machine "
                "was replaced"
            )
        check_node_key(site, request.node_key)
        for name, other in register.sites.items():
            if name != site and other.node_key == request.node_key:
                raise InputError(f"site {site}: its node key is that of the site {name}")
        try:
            asked = x509.load_pem_x509_csr(request.certificate.encode())
        except ValueError:
            raise InputError(f"site {site}: its request holds no signing request") from None
        certificate = authority.site(site, asked, days)
        signed = Certificate(
            serial=serial_text(certificate.serial_number),
            expires=certificate.not_valid_after_utc,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            request=digest,
            text=pem(certificate).decode("ascii"),
        )
        if member is None or member.revoked is not None:
            earlier = member.certificates if member is not None else []
            member = Site(
                node_key=request.node_key, ledger_key=request.ledger_key, admitted=now(),
                certificates=earlier,
            )  # fmt: skip
        member.certificates = [*member.certificates, signed]
        register.sites[site] = member
        invitation.token, invitation.used = "", now()
        given = _admission(place, register, site, signed)
        if save is not None:
            save(given)
    return given


def _given(register: Register, site: str, digest: str) -> Certificate | None:
    """What a request was answered with before, as long as that holds."""
    member = register.sites.get(site)
    found = [c for c in member.certificates if c.request == digest] if member is not None else []
    if found:
        check_not_revoked(site, member)
    return next((certificate for certificate in found if certificate.holds(now())), None)


def _admission(place: Place, register: Register, site: str, signed: Certificate) -> Admission:
    return Admission(
        consortium=register.name,
        site=site,
        address=register.address,
        ca=place.ca.read_text(encoding="ascii"),
        certificate=signed.text,
        node_id=register.sites[site].node_id,
        expires=signed.expires,
        versions=versions(),
    )


def revoke(place: Place, site: str) -> Site:
    """Strike a site off: none of its certificates holds any longer.

    The list that the front goes by is written first: whatever fails after that, the site is out.

    Raises:
        InputError: If it is no member.
    """
    authority = Authority.read(place)
    with registers.changing(place) as register:
        member = register.site(site)
        moment = now()
        member.revoked = member.revoked or moment
        for certificate in member.certificates:
            certificate.revoked = certificate.revoked or moment
        for invitation in register.invitations.get(site, []):
            invitation.token = ""
        authority.write_crl(place, register.revoked_serials())
    return member


def check_address(what: str, address: str) -> None:
    """Host and port.

    Raises:
        InputError: If it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535 or "/" in host:
        raise InputError(f"{what}: {address!r} is no host:port, such as center.example:9443")


def check_node_key(site: str, key: str) -> None:
    """A public key as Flower's node authentication wants it.

    Raises:
        InputError: If it is something else.
    """
    try:
        found = serialization.load_pem_public_key(key.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        raise InputError(f"site {site}: its request holds no node key") from None
    canonical = found.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if (
        not isinstance(found, ec.EllipticCurvePublicKey)
        or not isinstance(found.curve, ec.SECP384R1)
        or canonical.decode() != key
    ):
        raise InputError(f"site {site}: its node key is no ECDSA P-384 key as PEM")


def _invitation(register: Register, request: Request) -> Invitation:
    listed = register.invitations.get(request.site, [])
    if not listed:
        raise InputError(f"site {request.site}: was never invited")
    for invitation in listed:
        if invitation.token and request.is_sealed_by(invitation.token):
            if now() >= invitation.expires:
                raise InputError(
                    f"site {request.site}: its invitation ended on {invitation.expires:%Y-%m-%d}; "
                    f"`sonofed consortium invite {request.site}` makes another"
                )
            return invitation
    if any(invitation.used for invitation in listed):
        raise InputError(
            f"site {request.site}: its invitation was used already, and is good once; "
            f"`sonofed consortium invite {request.site}` makes another"
        )
    raise InputError(
        f"site {request.site}: its request was not made with the invitation, or was changed since"
    )


def read_request(path: Path) -> Request:
    """Read a site's request.

    Raises:
        InputError: If it is none.
    """
    return joining.read_file(path, Request)
