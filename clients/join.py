"""Joining a consortium: keys are made here, only a signed request leaves, an admission comes back.

The folder of a site: `site.toml`, `policy.toml`, `keys/` (TLS), `gate/` (node key, ledger, spool),
`work/` and `cache/` (what training writes). Keys and the gate's folder are the owner's alone.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clients.center import Center, read_center, write_center
from clients.site_file import SiteFile, load_site
from common.errors import InputError
from common.joining import Admission, Invitation, Request, read_file
from common.signing import make_key, public_path, read_public_key
from common.versions import differences

SITE_FILE, POLICY_FILE = "site.toml", "policy.toml"
SITE_KEY, NODE_KEY, LEDGER_KEY = "keys/site.key", "gate/node.key", "gate/ledger.key"
CERTIFICATE, CA = "keys/site.pem", "keys/ca.pem"

TEMPLATE = """\
# This site, as its own machine sees it. Nothing of this file ever leaves.
[site]
name = {name}
role = {role}              # "source": its masks teach; "target": its masks only judge
data = {data}
data_root = {root}
folder = "work"            # what training writes
cache = "cache"            # decoded images
# min_cohort = 5           # images that any number of a joint choice must stand for; 0: exact

[gate]
listen = {listen}
folder = "gate"            # keys, ledger, spool: the gate's alone
policy = "policy.toml"
node_key = "gate/node.key"

[upstream]
address = {address}        # the one place that this site speaks to
ca = "keys/ca.pem"
certificate = "keys/site.pem"
key = "keys/site.key"
proxy = ""                 # an http proxy that allows CONNECT, "host:port"

[network]
allow_open_network = {open}  # true: training runs without an empty network; said everywhere
user = {user}                  # where root starts it: the system user that training runs as
"""


def ask(
    invitation_file: Path,
    folder: Path,
    *,
    data: Path | None = None,
    role: str | None = None,
) -> Path:
    """Make the site's keys and its request. Asked again, the same keys serve.

    A site that is there already is held against the invitation before anything is written; of its
    `site.toml` only the address follows the center's.

    Args:
        invitation_file: From the coordinator.
        folder: The site's.
        data: Folder with the site's `index.csv`; a new site needs one.
        role: "source" or "target"; of a new site "target" where it is not said.

    Returns:
        The request's file, `SITE.request`: it goes to the coordinator.

    Raises:
        InputError: If the invitation is none, has ended, is not for this site, this consortium or
            these versions, or nothing can be written here.
    """
    invitation = read_file(invitation_file, Invitation)
    if datetime.now(UTC) >= invitation.expires:
        raise InputError(
            f"{invitation_file}: ended on {invitation.expires:%Y-%m-%d}; ask for another"
        )
    _check_versions(invitation)
    there = load_site(folder / SITE_FILE) if (folder / SITE_FILE).exists() else None
    if there is None and data is None:
        raise InputError("say where this site's images are: --data DIR (with index.csv)")
    if there is not None:
        _hold_against(there, folder, invitation, data, role)
    before = read_center(folder / "keys")
    with _writing(folder):
        for name in ("keys", "gate"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(0o700)
        request = _request(invitation, folder)
        if there is not None:
            follow(folder, there, before, invitation.address)
        elif data is not None:
            write_site_file(
                folder, name=invitation.site, role=role or "target", data=data,
                address=invitation.address,
            )  # fmt: skip
        _write(folder / CA, invitation.ca.encode("ascii"))
        write_center(folder / "keys", Center.of(invitation, before))
        path = folder / f"{invitation.site}.request"
        _write(path, request.model_dump_json(indent=1).encode() + b"\n")
    return path


def _check_versions(told: Invitation | Admission) -> None:
    differing = differences(told.versions)
    if differing:
        raise InputError(
            f"{' and '.join(differing)}: install the center's version here first (docs/site.md)"
        )


def _hold_against(
    site: SiteFile, folder: Path, invitation: Invitation, data: Path | None, role: str | None
) -> None:
    """An invitation, and what is typed with it, against the site that is there.

    Raises:
        InputError: Saying what is another's.
    """
    file = folder / SITE_FILE
    if site.site.name != invitation.site:
        raise InputError(
            f"{folder}: is the site {site.site.name}, and the invitation is for "
            f"{invitation.site}; a site of its own needs a --folder of its own"
        )
    if role is not None and role != site.site.role:
        raise InputError(f'{file}: says role = "{site.site.role}", not {role}; change it there')
    if data is not None and data.resolve() != site.site.data_folder.resolve():
        raise InputError(f"{file}: the data lie in {site.site.data_folder}; change it there")
    ca, certificate = folder / CA, folder / CERTIFICATE
    if certificate.exists() and ca.exists() and ca.read_text("ascii") != invitation.ca:
        raise InputError(
            f"{folder}: was admitted by another authority than the one that invites now; a second "
            f"consortium needs a --folder of its own. If the center has a new authority, remove "
            f"{certificate} first"
        )


def _request(invitation: Invitation, folder: Path) -> Request:
    key, node = _key(folder / SITE_KEY), _key(folder / NODE_KEY, openssh=True)
    if not (folder / LEDGER_KEY).exists():
        make_key(folder / LEDGER_KEY)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, invitation.site)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return Request(
        site=invitation.site,
        certificate=asked.sign(key, hashes.SHA384())
        .public_bytes(serialization.Encoding.PEM)
        .decode("ascii"),
        node_key=_public(node),
        ledger_key=read_public_key(public_path(folder / LEDGER_KEY)).hex(),
    ).sealed(invitation.token)


def follow(folder: Path, site: SiteFile, before: Center, address: str) -> None:
    """Have `site.toml` name the center's address of today.

    One that is not what the center said before is the site's own, such as of a relay: it stays.

    Args:
        folder: The site's.
        site: Its file, as it is.
        before: What the center had told it.
        address: Host and port of the center's front.

    Raises:
        InputError: If the file is laid out so that a person must change it.
    """
    path, old = folder / SITE_FILE, site.upstream.address
    if old == address or before.address not in ("", old):
        return
    text = path.read_text(encoding="utf-8")
    pattern = rf"^(\s*address\s*=\s*)(['\"]){re.escape(old)}\2"
    changed = re.sub(pattern, lambda m: m[1] + json.dumps(address), text, count=1, flags=re.M)
    wanted = tomllib.loads(text)
    wanted["upstream"]["address"] = address
    if tomllib.loads(changed) != wanted:
        raise InputError(f"{path}: write address = {json.dumps(address)} into [upstream] first")
    _write(path, changed.encode())


def write_site_file(
    folder: Path,
    *,
    name: str,
    role: str,
    data: Path,
    address: str,
    listen: str = "127.0.0.1:9701",
    open_network: bool = False,
    user: str = "",
    further: Mapping[str, str] | None = None,
) -> None:
    """Write `site.toml`.

    Args:
        folder: The site's.
        name: Its name.
        role: "source" or "target".
        data: Folder with the site's `index.csv`.
        address: Host and port of the consortium's front.
        listen: Where the gate listens for the SuperNode.
        open_network: Let training run without an empty network.
        user: The system user that training runs as, where root starts it.
        further: Keys of [site], as TOML; `data` in place of the folder alone.
    """
    place = data.absolute()
    told = {"data": f"{{ folder = {json.dumps(place.name)} }}", **(further or {})}
    text = TEMPLATE.format(
        name=json.dumps(name),
        role=json.dumps(role),
        data=told.pop("data"),
        root=json.dumps(str(place.parent)),
        listen=json.dumps(listen),
        address=json.dumps(address),
        open=json.dumps(open_network),
        user=json.dumps(user),
    )
    lines = "".join(f"{key} = {value}\n" for key, value in told.items())
    _write(folder / SITE_FILE, text.replace("\n[gate]", f"{lines}\n[gate]", 1).encode())


def take(admission_file: Path, folder: Path) -> Admission:
    """Take the admission: the certificate is put where the gate looks for it.

    Raises:
        InputError: If it is none, is for another site, other keys or other versions, is not signed
            by the authority of the invitation, or nothing can be written here.
    """
    admission = read_file(admission_file, Admission)
    key_file = folder / SITE_KEY
    if not key_file.exists():
        raise InputError(f"{folder}: no keys here; `sonofed site join INVITE` makes them")
    _check_versions(admission)
    try:
        certificate = x509.load_pem_x509_certificate(admission.certificate.encode())
        authority = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        certificate.verify_directly_issued_by(authority)
    except Exception:  # whatever is wrong with a certificate
        raise InputError(
            f"{admission_file}: its certificate is not signed by the authority that invited"
        ) from None
    if certificate.public_key() != _key(key_file).public_key():
        raise InputError(f"{admission_file}: is not for the keys in {folder / 'keys'}")
    site = load_site(folder / SITE_FILE)
    if site.site.name != admission.site:
        raise InputError(
            f"{admission_file}: admits {admission.site}, and {folder} is {site.site.name}"
        )
    before = read_center(folder / "keys")
    with _writing(folder):
        follow(folder, site, before, admission.address)
        _write(folder / CERTIFICATE, admission.certificate.encode())
        write_center(folder / "keys", Center.of(admission, before))
    return admission


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the disk refuses, in one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from None


def _key(path: Path, *, openssh: bool = False) -> ec.EllipticCurvePrivateKey:
    """The key in a file; made where there is none."""
    if path.exists():
        data = path.read_bytes()
        load = (
            serialization.load_ssh_private_key
            if b"OPENSSH" in data
            else serialization.load_pem_private_key
        )
        try:
            found = load(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InputError(f"{path}: is no private key, or is damaged") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise InputError(f"{path}: is no ECDSA key")
        return found
    key = ec.generate_private_key(ec.SECP384R1())
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(path, data, 0o600)
    return key


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Beside its place, then in; a secret is never readable, not for a moment."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
