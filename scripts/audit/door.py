"""A gate with a site's own policy, at a door of its own: its upstream is a sink on this machine.

Keys, ledger, spool and approvals are made for the occasion, so the site's own are neither used nor
touched.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from clients.gate.approvals import approve
from clients.supervisor import gate_command
from common.environment import SWITCHES
from common.keeper import descendants
from scripts.audit import connections
from scripts.engines import guard
from server.consortium.authority import Authority, key_pem, new_key, pem
from server.consortium.place import Place, write_file

END_S = 30.0


@dataclass(frozen=True)
class Door:
    """Where a gate for the occasion lies.

    Attributes:
        folder: All of it.
        listen: Where its SuperNode connects.
        certificate: Chain, key and authority of the sink that it dials.
        bundle: Code that is approved there.
    """

    folder: Path
    listen: str
    certificate: tuple[Path, Path, Path]
    bundle: bytes

    @property
    def site_file(self) -> Path:
        """Its site.toml."""
        return self.folder / "site.toml"

    @property
    def ledger(self) -> Path:
        """Its ledger."""
        return self.folder / "gate" / "ledger.jsonl"

    @property
    def trace(self) -> Path:
        """What strace wrote of it."""
        return self.folder / "gate.strace"

    @property
    def upstream(self) -> str:
        """The address that it was told to dial."""
        read = tomllib.loads(self.site_file.read_text(encoding="utf-8"))
        return str(read["upstream"]["address"])


def make_door(folder: Path, site: str, bundle: bytes) -> Door:
    """Make keys, certificates and the approval of a bundle.

    Args:
        folder: Where; new.
        site: The policy's site.
        bundle: Code to approve.
    """
    place = Place(folder / "center")
    authority = Authority.create(place, "audit")
    authority.server(place.front, "sink", ["127.0.0.1", "localhost"])
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = authority.site(site, request.sign(key, hashes.SHA384()))
    write_file(folder / "keys" / "site.key", key_pem(key), 0o600)
    write_file(folder / "keys" / "site.pem", pem(signed))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    certificate = (place.front / "sink.pem", place.front / "sink.key", place.ca)
    made = Door(folder, listen, certificate, bundle)
    approve(folder / "gate", bundle, note="made for an audit")
    return made


def write_site_file(door: Door, site: str, role: str, policy: Path, upstream: str) -> None:
    """The site.toml that leads to the sink."""
    text = f"""\
[site]
name = {json.dumps(site)}
role = {json.dumps(role)}
data = {{ folder = "none" }}
data_root = "none"
folder = "work"
cache = "work"
[gate]
listen = {json.dumps(door.listen)}
folder = "gate"
policy = {json.dumps(str(policy.absolute()))}
node_key = "gate/node.key"
[upstream]
address = {json.dumps(upstream)}
ca = {json.dumps(str(door.certificate[2]))}
certificate = "keys/site.pem"
key = "keys/site.key"
"""
    door.site_file.write_text(text, encoding="utf-8")


def small_bundle(name: str = "audit") -> bytes:
    """A bundle without code in it: to be approved, and never run."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr(ZipInfo("pyproject.toml"), f'[project]\nname = "{name}"\n')
    return buffer.getvalue()


@contextlib.contextmanager
def running_gate(door: Door, *, trace: bool) -> Iterator[None]:
    """The gate's own process, by the command that a hospital runs; ended with the block.

    Args:
        door: Which.
        trace: Have strace write down every address that it names.
    """
    # It takes its socket by `listen`, as a gate does that nobody hands one.
    command = gate_command(door.site_file, 0)[:-2]
    if trace:
        command = connections.traced(command, door.trace)
    log = door.folder / "gate.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **SWITCHES},
            start_new_session=True,
        )
    try:
        yield
    finally:
        # Politely first, so that what it says when it goes is recorded too.
        for pid in descendants(process.pid):
            with contextlib.suppress(OSError):
                if b"strace" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                    os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
