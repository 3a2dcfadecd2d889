"""The consortium's front: nginx, the one address that hospitals reach.

It asks for a certificate of the consortium's authority, lets nothing pass but POST below
/v1/fleet/, and holds each certificate to the node key that it was admitted with: a site cannot
speak as another. Flower's Control and Runtime APIs share the SuperLink's port; they stay behind.
"""

import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from common.errors import InputError
from server.consortium.place import Place, write_file
from server.consortium.register import Register

NAME = "front"
CONFIGURED = "nginx.conf"
BODY = "8m"
"""Largest request: Flower's arrays travel in chunks of 5 MiB."""

CONFIGURATION = """\
# Written by sonofed; `sonofed consortium` writes it anew on every change.
daemon off;
pid {folder}/nginx.pid;
error_log {logs}/front-error.log warn;
worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
    server_tokens off;
    log_format plain '$time_iso8601 $ssl_client_serial $request_method $uri $status '
                     '$request_length $bytes_sent $request_time';
    access_log {logs}/front.log plain;
    client_body_temp_path {folder}/temp-body;
    proxy_temp_path {folder}/temp-proxy;
    fastcgi_temp_path {folder}/temp-fastcgi;
    uwsgi_temp_path {folder}/temp-uwsgi;
    scgi_temp_path {folder}/temp-scgi;
    default_type application/octet-stream;
    # A certificate's number to the node key that its holder was admitted with.
    map_hash_bucket_size 1024;
    map $ssl_client_serial $node_key {{
        default "";
{keys}    }}
    upstream superlink {{
        server {upstream};
        keepalive 32;
        # Shorter than the SuperLink's own, or requests go into connections that it has just closed.
        keepalive_timeout 3s;
    }}
    server {{
        listen {listen} ssl;
        server_name _;
        ssl_certificate {folder}/front.pem;
        ssl_certificate_key {folder}/front.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        # No resumption: each connection shows its certificate, so revoking one ends it.
        ssl_session_cache off;
        ssl_session_tickets off;
        ssl_client_certificate {ca};
        ssl_crl {crl};
        ssl_verify_client on;
        ssl_verify_depth 1;
        client_max_body_size {body};
        client_header_timeout 30s;
        client_body_timeout 60s;
        keepalive_timeout 75s;
        location = /v1/fleet {{ return 404; }}
        location / {{ return 404; }}
        location /v1/fleet/ {{
            if ($request_method != POST) {{ return 405; }}
            if ($node_key = "") {{ return 403; }}
            if ($http_flwr_public_key != $node_key) {{ return 421; }}
            proxy_pass {scheme}://superlink;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_request_buffering off;
            # Weights are not laid down on this disk; and nginx's own user could not write here.
            proxy_max_temp_file_size 0;
            proxy_next_upstream off;
            proxy_read_timeout 120s;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
        }}
    }}
}}
"""


def executable() -> str:
    """Where nginx is.

    Raises:
        InputError: If it is not installed.
    """
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise InputError("nginx is not installed; on Debian and Ubuntu: apt install nginx-light")
    return found


def header_of(node_key: str) -> str:
    """A node's public key as Flower's clients send it, in the header `flwr-public-key`."""
    return b64encode(node_key.encode("ascii")).decode("ascii")


def keys_of(register: Register, now: datetime) -> dict[str, str]:
    """Number of every certificate that holds, and the header that goes with it."""
    return {
        certificate.serial: header_of(site.node_key)
        for site in register.sites.values()
        if site.revoked is None
        for certificate in site.certificates
        if certificate.holds(now)
    }


def configuration(
    place: Place,
    register: Register,
    now: datetime,
    *,
    upstream: str | None = None,
    workers: int = 1,
) -> str:
    """The configuration's text.

    Args:
        place: The consortium's folder.
        register: Its sites.
        now: Certificates that have ended by then are left out.
        upstream: "https://host:port" in place of the SuperLink (for a recorder between them).
        workers: Of nginx.
    """
    scheme, _, address = (upstream or f"https://127.0.0.1:{register.superlink}").partition("://")
    lines = [f'        {serial} "{key}";\n' for serial, key in keys_of(register, now).items()]
    return CONFIGURATION.format(
        folder=_quoted(place.front),
        logs=_quoted(place.logs),
        ca=_quoted(place.ca),
        crl=_quoted(place.crl),
        listen=register.listen,
        upstream=address,
        scheme=scheme,
        body=BODY,
        workers=workers,
        keys="".join(lines),
    )


def write(place: Place, register: Register, now: datetime, upstream: str | None = None) -> Path:
    """Have nginx say whether the configuration is sound, and only then put it in its place.

    Raises:
        InputError: If it is not.
    """
    place.logs.mkdir(parents=True, exist_ok=True)
    path, tried = place.front / CONFIGURED, place.front / f"{CONFIGURED}.next"
    write_file(tried, configuration(place, register, now, upstream=upstream).encode())
    found = subprocess.run(
        [*command(place, tried.name), "-t", "-q"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise InputError(f"{tried}: nginx refuses it: {found.stderr.strip()}")
    tried.replace(path)
    return path


def is_master(place: Place, pid: int) -> bool:
    """Whether a process is this consortium's nginx, and takes signals: it names itself so then."""
    try:
        said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return False
    name, _, rest = said.partition(b" -p ")
    folder = rest.partition(b" -c ")[0]
    return (
        name.startswith(b"nginx: master process ")
        and folder != b""
        and os.path.realpath(folder) == os.path.realpath(place.front).encode()
    )


def command(place: Place, configured: str = CONFIGURED) -> list[str]:
    """The command that runs the front in the foreground."""
    folder = place.front.absolute()
    return [
        executable(), "-p", str(folder), "-c", str(folder / configured),
        "-e", str(place.logs.absolute() / "front-error.log"),
    ]  # fmt: skip


def environment() -> Mapping[str, str]:
    """Nginx needs nothing of the environment."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def _quoted(path: Path) -> str:
    """A path as nginx's configuration takes it.

    Raises:
        InputError: If no quoting would help.
    """
    text = str(path.absolute())
    if any(sign in text for sign in "\"'\\${};\n\t "):
        raise InputError(f"{text}: nginx takes no path with blanks, quotes, $, braces or ;")
    return text
