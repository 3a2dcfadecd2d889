"""The three files by which a site joins: invitation, request, admission (docs/consortium.md).

The invitation carries a one-time token and goes to the site by a way that is trusted (by hand, by
encrypted mail). The request comes back with a code made from that token, so it may travel in the
open: nobody without the invitation can make or change one. The admission holds nothing secret.
"""

import hashlib
import hmac
import json
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import InputError


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invitation(_File):
    """What a site needs to ask for admission.

    Attributes:
        consortium: Its name.
        site: The name that the site will have.
        address: Host and port of the front: the one place that the site speaks to.
        ca: The authority's certificate (PEM).
        token: The secret of this invitation; good once.
        expires: Until when.
        study: SHA-256 of the study that is planned; empty where none is named.
        versions: At the center, of what must agree (`common.versions`).
    """

    format: Literal["sonofed-invitation-1"] = "sonofed-invitation-1"
    consortium: str
    site: str
    address: str
    ca: str
    token: str
    expires: datetime
    study: str = ""
    versions: dict[str, str] = {}


class Request(_File):
    """What a site asks to be admitted with. Its private keys stay where they were made.

    Attributes:
        site: Its name.
        certificate: Certificate signing request (PEM), signed by the key that it speaks TLS with.
        node_key: Public key of its node (PEM, ECDSA P-384).
        ledger_key: Public key of its gate's ledger (hex, Ed25519); empty where there is none yet.
        code: HMAC-SHA256 of the rest, by the invitation's token.
    """

    format: Literal["sonofed-request-1"] = "sonofed-request-1"
    site: str
    certificate: str
    node_key: str
    ledger_key: str = ""
    code: str = ""

    def sealed(self, token: str) -> "Request":
        """With the code that the token makes."""
        return self.model_copy(update={"code": self._code(token)})

    def is_sealed_by(self, token: str) -> bool:
        """Whether the code is the token's."""
        return hmac.compare_digest(self.code, self._code(token))

    def _code(self, token: str) -> str:
        text = self.model_dump_json(exclude={"code"})
        return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


class Admission(_File):
    """What a site gets back.

    Attributes:
        consortium: Its name.
        site: The site's name.
        address: Host and port of the front.
        ca: The authority's certificate (PEM).
        certificate: The site's own certificate (PEM).
        node_id: Flower's number of its node.
        expires: When the certificate ends.
        versions: At the center, as in the invitation.
    """

    format: Literal["sonofed-admission-1"] = "sonofed-admission-1"
    consortium: str
    site: str
    address: str
    ca: str
    certificate: str
    node_id: int
    expires: datetime
    versions: dict[str, str] = {}


WANTED = {
    "invitation": "SITE.invitation, from the coordinator",
    "request": "SITE.request, made by `sonofed site join` at the site",
    "admission": "SITE.admission, the coordinator's answer",
}
F = TypeVar("F", bound=_File)


def read_file(path: Path, kind: type[F]) -> F:
    """Read one of the three files.

    Raises:
        InputError: If it is not there, or is something else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        what, other = kind.__name__.lower(), _kind(data)
        if other == what:
            fields = ", ".join(dict.fromkeys(str(e["loc"][0]) for e in error.errors() if e["loc"]))
            raise InputError(
                f"{path}: is damaged, or of another version of sonofed; of {WANTED[what]}, these "
                f"lines do not fit: {fields}"
            ) from None
        instead = f" but {'an' if other[0] in 'ai' else 'a'} {other}" if other else ""
        raise InputError(f"{path}: is no {what}{instead}; {WANTED[what]} is wanted here") from None


def _kind(data: bytes) -> str:
    """Which of the three a file says that it is; empty if none."""
    try:
        told = json.loads(data)["format"]
    except (ValueError, KeyError, TypeError):
        return ""
    return next((what for what in WANTED if told == f"sonofed-{what}-1"), "")
