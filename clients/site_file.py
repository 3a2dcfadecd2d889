"""A site's own file, site.toml: who it is, its gate, the one address that it dials."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from clients.settings import SiteSettings
from common.config.tables import read_tables, sentences
from common.errors import InputError

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port.

    Raises:
        ValueError: If it is no "host:port".
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError("should be one host:port, without https:// and path")
    return found["host"].strip("[]"), int(found["port"])


def _address(value: str) -> str:
    split_address(value)
    return value


def _loopback(value: str) -> str:
    host, _ = split_address(value)
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = False
    if not own:
        raise ValueError("should be an address of this machine alone, such as 127.0.0.1:9701")
    return value


def _proxy(value: str) -> str:
    return _address(value) if value else value


Address = Annotated[str, AfterValidator(_address)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateTable(_Table):
    """The gate's own place."""

    listen: Annotated[str, AfterValidator(_loopback)] = Field(
        default="127.0.0.1:9701", description="Where flower-supernode connects."
    )
    folder: Path = Field(
        default=Path("gate"),
        description="Spool, ledger.jsonl, ledger.key and approvals: the gate's alone.",
    )
    policy: Path = Field(default=Path("policy.toml"), description="What may pass.")
    node_key: Path = Field(
        default=Path("gate/node.key"),
        description="ECDSA P-384: Flower's node authentication; the SuperNode never sees it.",
    )


class UpstreamTable(_Table):
    """The one address that the gate dials, and who it is there."""

    address: Address = Field(description="One host:port; HTTPS.")
    ca: Path = Field(description="Certificate of the consortium's authority.")
    certificate: Path = Field(description="This site's certificate.")
    key: Path = Field(description="Its private key.")
    proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        default="", description="host:port of an HTTP proxy that knows CONNECT; or empty."
    )


class NetworkTable(_Table):
    """How the SuperNode is kept from the network."""

    allow_open_network: bool = Field(
        default=False,
        description="True: the SuperNode runs without an empty network namespace, so the gate is "
        "no longer its only door.",
    )
    user: str = Field(
        default="",
        description="Where root starts the site: the system user that training runs as.",
    )


class SiteFile(_Table):
    """site.toml. Paths in it are absolute once it is read."""

    site: SiteSettings
    gate: GateTable = GateTable()
    upstream: UpstreamTable
    network: NetworkTable = NetworkTable()


def load_site(path: Path) -> SiteFile:
    """Read a site's file.

    Args:
        path: site.toml; relative paths in it start from its folder.

    Raises:
        InputError: Naming every unknown key (and the nearest known one) and every bad value.
    """
    tables = read_tables(path, "no such file; configs/site.toml is the template")
    try:
        read = SiteFile.model_validate(tables)
    except ValidationError as error:
        raise InputError([f"{path}: {line}" for line in sentences(error, SiteFile)]) from None
    anchored: SiteFile = _anchored(read, path.absolute().parent)
    return anchored


def _anchored(value: Any, start: Path) -> Any:
    """Every path in a model made absolute; `data.folder` stays, `data_root` is its start."""
    if isinstance(value, Path):
        return start / value
    if isinstance(value, (SiteFile, SiteSettings, GateTable, UpstreamTable)):
        changes = {
            name: _anchored(getattr(value, name), start) for name in type(value).model_fields
        }
        return value.model_copy(update=changes)
    if isinstance(value, dict):
        return {key: _anchored(inner, start) for key, inner in value.items()}
    return value
