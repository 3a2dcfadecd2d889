"""The register of a consortium: its sites, their keys and certificates, open invitations.

One JSON file, written whole. A lock keeps two commands from writing over each other.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError
from server.consortium.place import Place, locked, write_file

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Certificate(_Strict):
    """A certificate that was signed for a site.

    Attributes:
        serial: Its number, hexadecimal as nginx writes it.
        expires: When it ends (UTC).
        revoked: When it was revoked; None while it holds.
        fingerprint: SHA-256 of the certificate, hexadecimal; empty for one signed before this
            was kept.
        request: SHA-256 of the request that it answers; empty for one signed before this was kept.
        text: The certificate itself (PEM), so that the same request gets the same answer.
    """

    serial: str
    expires: datetime
    revoked: datetime | None = None
    fingerprint: str = ""
    request: str = ""
    text: str = ""

    def holds(self, now: datetime) -> bool:
        """Whether it is good now."""
        return self.revoked is None and now < self.expires


class Site(_Strict):
    """A site that was admitted.

    Attributes:
        node_key: Public key of its node (PEM, ECDSA P-384).
        ledger_key: Public key of its ledger (hex); empty where the request had none.
        admitted: When.
        certificates: All that were signed for it.
        node_id: Flower's number of it; 0 until the SuperLink has it.
        revoked: When it was revoked; None while it is a member.
    """

    node_key: str
    ledger_key: str = ""
    admitted: datetime
    certificates: list[Certificate] = []
    node_id: int = 0
    revoked: datetime | None = None


class Invitation(_Strict):
    """An invitation that was given out.

    Attributes:
        token: The secret that the site's request is authenticated with; empty once used.
        expires: When it ends (UTC).
        used: When a request with it was admitted.
        renewal: Whether the site is a member already and only gets a new certificate.
    """

    token: str
    expires: datetime
    used: datetime | None = None
    renewal: bool = False


class Register(_Strict):
    """The whole register.

    Attributes:
        name: The consortium's.
        address: Host and port that sites reach the front by.
        listen: Host and port where the front listens.
        superlink: Loopback port of Flower's SuperLink.
        health: Loopback port of its health service.
        sites: By name.
        invitations: By site.
    """

    name: str
    address: str
    listen: str
    superlink: int = Field(ge=1, le=65535)
    health: int = Field(ge=1, le=65535)
    sites: dict[str, Site] = {}
    invitations: dict[str, list[Invitation]] = {}

    def site(self, name: str) -> Site:
        """A member.

        Raises:
            InputError: If there is none of that name.
        """
        found = self.sites.get(name)
        if found is None:
            known = ", ".join(self.sites) or "none"
            raise InputError(f"{name}: is no site of this consortium (its sites: {known})")
        return found

    def revoked_serials(self) -> list[int]:
        """Numbers of all revoked certificates."""
        return [
            int(certificate.serial, 16)
            for site in self.sites.values()
            for certificate in site.certificates
            if certificate.revoked is not None
        ]


def read(place: Place) -> Register:
    """Read the register.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    try:
        return Register.model_validate_json(place.register.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{place.root}: holds no consortium; `sonofed consortium init` makes one"
        ) from None
    except (OSError, ValidationError) as error:
        raise InputError(f"{place.register}: cannot be read: {error}") from None


def write(place: Place, register: Register) -> None:
    """Write the register; it holds the secrets of open invitations, so it is its owner's alone."""
    write_file(place.register, register.model_dump_json(indent=1).encode() + b"\n", 0o600)


def stamp(place: Place) -> tuple[int, int]:
    """Another after every change of the register."""
    found = place.register.stat()
    return found.st_mtime_ns, found.st_ino


@contextmanager
def changing(place: Place) -> Iterator[Register]:
    """Read the register, let the block change it, write it; nobody else writes meanwhile.

    Raises:
        InputError: See `read`.
    """
    read(place)
    with locked(place.root / ".register.lock"):
        register = read(place)
        yield register
        write(place, register)


def check_name(name: str) -> str:
    """A site's name as it may stand in certificates, folders and configuration files.

    Raises:
        InputError: If it may not.
    """
    if not SITE_NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: is no name for a site; letters, digits, '.', '_' and '-', at most 64"
        )
    return name


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
