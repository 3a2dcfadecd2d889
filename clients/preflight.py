"""Whether a site can take part, before it does: each thing that is needed, and what to do if not.

Nothing leaves but one HTTPS request to the consortium's own address, without a body.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from clients import namespace
from clients.agreement import agreement, message_bytes
from clients.data.manifest import MANIFEST, read_manifest
from clients.finding import Finding
from clients.gate.approvals import approved
from clients.gate.node_key import read_node_key
from clients.gate.policy import Policy
from clients.gate.policy_file import load_policy
from clients.reach import reach
from clients.site_file import SiteFile
from clients.supernode import can_be_shut_in, owner_of
from common.errors import InputError
from common.memory import available_memory

SOON = timedelta(days=30)
LEAST_MEMORY = 3 * 10**9
MESSAGES_ON_DISK = 4
"""At once: an instruction, a reply, what leaves of it, a training's last answer."""
CACHE_BYTES = 300_000
"""A decoded image of 512 px with its mask."""


Check = Callable[[SiteFile], Iterator[Finding]]


def preflight(site: SiteFile) -> Iterator[Finding]:
    """Look at everything, one thing after another; a failure does not end it.

    Args:
        site: The site's file.
    """
    yield from here(site)
    yield from _card(site)
    yield from reach(site)


def here(site: SiteFile) -> Iterator[Finding]:
    """What is to be seen on this machine alone; `sonofed site up` asks for it too."""
    for check in (
        _data, _policy, _agreement, _keys, certificates, _disk, _memory, _solitude, _user
    ):  # fmt: skip
        yield from check(site)


def _data(site: SiteFile) -> Iterator[Finding]:
    folder = site.site.data_folder
    if not (folder / MANIFEST).exists():
        yield Finding(
            "data", "fail", f"there is no {MANIFEST} in {folder}",
            "describe the images in one (docs/site.md), or correct [site] data and data_root",
        )  # fmt: skip
        return
    try:
        rows = read_manifest(folder, site.site.data)
    except InputError as error:
        more = f"; and {len(error.problems) - 3} more" if len(error.problems) > 3 else ""
        yield Finding(
            "data", "fail", "; ".join(error.problems[:3]) + more,
            f"correct {folder / MANIFEST}; `sonofed data check {folder}` lists everything",
        )  # fmt: skip
        return
    if not rows:
        yield Finding("data", "fail", "no row is left", "correct [site] data.where")
        return
    closed = [row for row in rows if not os.access(row.image, os.R_OK)]
    if closed:
        yield Finding(
            "data", "fail", f"{len(closed)} of {len(rows)} images cannot be read",
            "give the account that runs `sonofed site up` the right to read them",
        )  # fmt: skip
        return
    patients = {row.patient for row in rows if row.patient}
    told = f"{len(rows)} images" + (f" of {len(patients)} patients" if patients else "")
    if not patients:
        yield Finding(
            "data", "warn", f"{told}, without a column patient",
            "name patients by any code: splits and the smallest cohort are then by patient",
        )  # fmt: skip
        return
    yield Finding("data", "ok", told)


def _policy(site: SiteFile) -> Iterator[Finding]:
    policy = _loaded(site)
    if isinstance(policy, InputError):
        yield Finding(
            "policy", "fail", "; ".join(policy.problems[:3]),
            "`sonofed gate policy check` helps; configs/policy.toml is the template",
        )  # fmt: skip
        return
    if policy.file.site != site.site.name:
        yield Finding(
            "policy", "fail", f"is the policy of {policy.file.site}, not of {site.site.name}",
            f"correct site = in {site.gate.policy}",
        )  # fmt: skip
        return
    studies = ", ".join(policy.file.studies) or "no study"
    if policy.file.bundles.any:
        yield Finding(
            "policy", "warn", f"{studies}; [bundles] any = true lets any code run here",
            "approve the code that you have read with `sonofed gate approve`",
        )  # fmt: skip
    elif not policy.approved and not policy.file.bundles.approved:
        yield Finding(
            "policy", "warn", f"{studies}; no code is approved yet, so nothing will run",
            "`sonofed gate approve BUNDLE.fab`, once the coordinator has sent it",
        )  # fmt: skip
    else:
        count = len(policy.approved) + len(policy.file.bundles.approved)
        yield Finding("policy", "ok", f"{studies}; {count} code bundles approved")


def _agreement(site: SiteFile) -> Iterator[Finding]:
    yield from agreement(site, _loaded(site))


def _loaded(site: SiteFile) -> Policy | InputError:
    try:
        return load_policy(site.gate.policy, approved(site.gate.folder))
    except InputError as error:
        return error


def _keys(site: SiteFile) -> Iterator[Finding]:
    wanted = {"node key": site.gate.node_key, "certificate's key": site.upstream.key}
    for what, path in wanted.items():
        if not path.exists():
            yield Finding(what, "fail", f"{path} is not there", "`sonofed site join` makes it")
        elif stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding(what, "fail", f"{path} can be read by others", f"chmod 600 {path}")
        else:
            yield Finding(what, "ok", "there, and this account's alone")
    if site.gate.node_key.exists():
        try:
            read_node_key(site.gate.node_key)
        except InputError as error:
            yield Finding("node key", "fail", error.problems[0], "join anew: ask for an invitation")


def certificates(site: SiteFile) -> Iterator[Finding]:
    """Until when the site's certificate and the authority's hold."""
    for what, path in {
        "certificate": site.upstream.certificate,
        "authority": site.upstream.ca,
    }.items():
        try:
            read = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            yield Finding(
                what, "fail", f"{path} is no certificate",
                "`sonofed site join --admission FILE` puts it there",
            )  # fmt: skip
            continue
        now, until = datetime.now(UTC), read.not_valid_after_utc
        if now < read.not_valid_before_utc:
            yield Finding(
                what, "fail", f"holds from {read.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only",
                "set this machine's clock",
            )  # fmt: skip
        elif until < now:
            yield Finding(
                what, "fail", f"ended on {until:%Y-%m-%d}",
                "ask the coordinator: `sonofed consortium renew`",
            )  # fmt: skip
        elif until - now < SOON:
            yield Finding(
                what, "warn", f"ends on {until:%Y-%m-%d}",
                "ask the coordinator: `sonofed consortium renew`",
            )  # fmt: skip
        else:
            yield Finding(what, "ok", f"until {until:%Y-%m-%d}")


def _disk(site: SiteFile) -> Iterator[Finding]:
    """Room for the cache of the images, and for messages on their way."""
    message = _largest_message(site)
    images = _images(site)
    for what, place, needed in (
        ("disk, gate", site.gate.folder, MESSAGES_ON_DISK * message),
        ("disk, work", site.site.folder, message),
        ("disk, cache", site.site.cache, images * CACHE_BYTES),
    ):
        there = _existing(place)
        free = shutil.disk_usage(there).free
        told = f"{free / 1e9:.1f} GB free, some {max(needed, 10**8) / 1e9:.1f} GB needed"
        if not os.access(there, os.W_OK):
            yield Finding(what, "fail", f"{place} cannot be written", "give this account the right")
        elif free < needed:
            yield Finding(what, "fail", told, f"make room where {place} lies")
        elif free < 2 * needed:
            yield Finding(what, "warn", told, f"make room where {place} lies")
        else:
            yield Finding(what, "ok", told)


def _existing(place: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not place.exists():
        place = place.parent
    return place


def _images(site: SiteFile) -> int:
    try:
        return len(read_manifest(site.site.data_folder, site.site.data))
    except InputError:
        return 0


def _largest_message(site: SiteFile) -> int:
    """Bytes of the largest message that the policy's manifests name."""
    policy = _loaded(site)
    if isinstance(policy, InputError):
        return 0
    return max(
        (
            message_bytes(tensors)
            for manifest in policy.manifests.values()
            for exchange in manifest.exchanges.values()
            for tensors in (exchange.down, exchange.up)
        ),
        default=0,
    )


def _memory(site: SiteFile) -> Iterator[Finding]:
    free = available_memory()
    told = f"{free / 1e9:.1f} GB free"
    if free < LEAST_MEMORY:
        yield Finding(
            "memory", "warn", f"{told}; small studies need {LEAST_MEMORY / 1e9:.0f} GB",
            "the study's `--dry-run` says what a stage takes",
        )  # fmt: skip
    else:
        yield Finding("memory", "ok", told)


def _card(site: SiteFile) -> Iterator[Finding]:
    import torch  # late: the rest is quick without it

    if torch.cuda.is_available():
        yield Finding("GPU", "ok", torch.cuda.get_device_name(0))
    else:
        yield Finding("GPU", "ok", "none that torch can use: training is on the processor")


def _solitude(site: SiteFile) -> Iterator[Finding]:
    if site.network.allow_open_network:
        yield Finding(
            "shut in", "warn", "allow_open_network = true: training has other ways out",
            "remove it where the machine allows an empty network namespace",
        )  # fmt: skip
    elif can_be_shut_in():
        yield Finding("shut in", "ok", "training gets an empty network: the gate is its only door")
    else:
        yield Finding(
            "shut in", "fail", "this machine lets no process into an empty network",
            "start as root, or set kernel.unprivileged_userns_clone = 1; with [network] "
            "allow_open_network = true training runs in the open, and that is said everywhere",
        )  # fmt: skip


def _user(site: SiteFile) -> Iterator[Finding]:
    """Root runs training as somebody else, who must be able to read what it needs."""
    name = site.network.user
    if os.getuid() != 0:
        return
    if not name:
        yield Finding(
            "user", "fail", "started as root, and [network] user names nobody",
            "name a system user for training (useradd --system --no-create-home NAME)",
        )  # fmt: skip
        return
    try:
        owner = owner_of(name)
    except InputError as error:
        yield Finding("user", "fail", error.problems[0], "correct [network] user")
        return
    python = Path(sys.executable)
    needed = dict.fromkeys(
        [site.site.data_folder / MANIFEST, python, python.resolve(), Path(namespace.__file__)]
    )
    closed = [
        str(path) for path in needed
        if owner is not None and path.exists() and not _readable(path, owner)
    ]  # fmt: skip
    if closed:
        yield Finding(
            "user", "fail", f"the user {name} cannot read {', '.join(closed)}", _way_in(closed)
        )
    else:
        yield Finding("user", "ok", f"training runs as {name}")


def _way_in(closed: list[str]) -> str:
    if any(Path(path).is_relative_to("/root") for path in closed):
        return (
            "/root is root's alone, and so is a Python or an installation in it: install and keep "
            "them where everybody may read, such as /opt/sonofed (with a Python from the system's "
            "packages), not below /root"
        )
    return "give it the right, or move them to where it has"


def _readable(path: Path, owner: tuple[int, int]) -> bool:
    command = ["/usr/bin/test", "-r", str(path)]
    found = subprocess.run(
        command, user=owner[0], group=owner[1], extra_groups=[], check=False, cwd="/"
    )
    return found.returncode == 0
