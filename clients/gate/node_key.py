"""The node's key: Flower's node authentication, held by the gate and never by the SuperNode."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import InputError
from common.signing import public_path


def make_node_key(path: Path, *, openssh: bool = False) -> ec.EllipticCurvePrivateKey:
    """Make a node's key; `path`.pub gets the public half as `flwr supernode register` reads it.

    Args:
        path: Where.
        openssh: In OpenSSH's own form, the only one that Flower's SuperNode reads.

    Raises:
        InputError: If there is a file already, or no writing there.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
        public_path(path).write_bytes(public + b"\n")
    except OSError as error:
        raise InputError(f"{path}: no key can be written there: {error.strerror}") from None
    return key


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a node's key, PEM or as `ssh-keygen -t ecdsa -b 384` writes it.

    Raises:
        InputError: If it is not there, no such key, or open to others.
    """
    try:
        content = path.read_bytes()
        load = (
            serialization.load_ssh_private_key
            if b"OPENSSH" in content[:64]
            else serialization.load_pem_private_key
        )
        key = load(content, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: is no node key ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise InputError(f"{path}: is no ECDSA P-384 key; ssh-keygen -t ecdsa -b 384 makes one")
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path}: others may read it; chmod 600 {path}")
    return key
