"""Joining a consortium: keys are made here, only a signed request leaves, an admission comes back.

The folder of a site: `site.toml`, `policy.toml`, `keys/` (TLS), `gate/` (node key, ledger, spool),
`work/` and `cache/` (what training writes). Keys and the gate's folder are the owner's alone.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.errors import InputError
from common.joining import Admission, Invitation, Request, read_file
from common.signing import make_key, public_path, read_public_key

SITE_FILE, POLICY_FILE = "site.toml", "policy.toml"
SITE_KEY, NODE_KEY, LEDGER_KEY = "keys/site.key", "gate/node.key", "gate/ledger.key"
CERTIFICATE, CA = "keys/site.pem", "keys/ca.pem"
INVITATION = "keys/invitation.json"

TEMPLATE = """\
# This site, as its own machine sees it. Nothing of this file ever leaves.
[site]
name = {name}
role = {role}              # "source": its masks teach; "target": its masks only judge
data = {data}
data_root = {root}
folder = "work"            # what training writes
cache = "cache"            # decoded images

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
    data: Path,
    role: str,
) -> Path:
    """Make the site's keys and its request. Asked again, the same keys serve.

    Args:
        invitation_file: From the coordinator.
        folder: The site's.
        data: Folder with the site's `index.csv`.
        role: "source" or "target".

    Returns:
        The request's file, `SITE.request`: it goes to the coordinator.

    Raises:
        InputError: If the invitation is none, or has ended.
    """
    invitation = read_file(invitation_file, Invitation)
    if datetime.now(UTC) >= invitation.expires:
        raise InputError(
            f"{invitation_file}: ended on {invitation.expires:%Y-%m-%d}; ask for another"
        )
    for name in ("keys", "gate"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name).chmod(0o700)
    key, node = _key(folder / SITE_KEY), _key(folder / NODE_KEY, openssh=True)
    if not (folder / LEDGER_KEY).exists():
        make_key(folder / LEDGER_KEY)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, invitation.site)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = Request(
        site=invitation.site,
        certificate=asked.sign(key, hashes.SHA384())
        .public_bytes(serialization.Encoding.PEM)
        .decode("ascii"),
        node_key=_public(node),
        ledger_key=read_public_key(public_path(folder / LEDGER_KEY)).hex(),
    ).sealed(invitation.token)
    if not (folder / SITE_FILE).exists():
        write_site_file(
            folder, name=invitation.site, role=role, data=data, address=invitation.address
        )
    _write(folder / CA, invitation.ca.encode("ascii"))
    path = folder / f"{invitation.site}.request"
    _write(path, request.model_dump_json(indent=1).encode() + b"\n")
    return path


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
        InputError: If it is none, is for other keys, or is not signed by the authority of the
            invitation.
    """
    admission = read_file(admission_file, Admission)
    key_file = folder / SITE_KEY
    if not key_file.exists():
        raise InputError(f"{folder}: no keys here; `sonofed site join INVITE` makes them")
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
    _write(folder / CERTIFICATE, admission.certificate.encode())
    return admission


def _key(path: Path, *, openssh: bool = False) -> ec.EllipticCurvePrivateKey:
    """The key in a file; made where there is none."""
    if path.exists():
        data = path.read_bytes()
        load = (
            serialization.load_ssh_private_key
            if b"OPENSSH" in data
            else serialization.load_pem_private_key
        )
        found = load(data, password=None)
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
