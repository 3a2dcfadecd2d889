"""Which code may run at this site: approvals of bundles, in a signed ledger of their own.

A bundle (FAB) is a zip archive whose SHA-256 names it. It is read here, never unpacked or run.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.ledger import Ledger, head_path
from common.ledger_check import NO_RECEIPTS, Verdict, read, verify
from common.signing import make_key, public_path, read_key, read_public_key

APPROVALS_FILE, KEY_FILE, BUNDLES = "approvals.jsonl", "ledger.key", "bundles"
LARGEST = 100_000_000
"""Bytes of a bundle, unpacked; Flower allows 10 MB packed."""


@dataclass(frozen=True)
class Approval:
    """One bundle and what was decided on it.

    Attributes:
        sha256: The bundle's.
        time: Of the approval.
        files: How many it holds.
        rebuilt: Whether it was built again from source, with the same SHA-256.
        constraints: SHA-256 of the file that pins the libraries; empty where none was given.
        note: Whatever was said of it.
        revoked: When it was revoked; empty while it holds.
    """

    sha256: str
    time: str
    files: int
    rebuilt: bool
    constraints: str
    note: str
    revoked: str = ""


def read_bundle(path: Path) -> bytes:
    """A bundle's bytes.

    Raises:
        InputError: If it is not there.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def files_in(bundle: bytes, origin: str) -> dict[str, bytes]:
    """The files of a bundle by name.

    Raises:
        InputError: If it is no bundle, holds a name twice or leading outside, or is too large.
    """
    try:
        with zipfile.ZipFile(BytesIO(bundle)) as archive:
            listed = archive.infolist()
            names = [entry.filename for entry in listed]
            if len(set(names)) < len(names):
                raise InputError(f"{origin}: holds a file twice")
            if any(name.startswith("/") or ".." in name.split("/") for name in names):
                raise InputError(f"{origin}: holds a name that leads outside")
            if sum(entry.file_size for entry in listed) > LARGEST:
                raise InputError(f"{origin}: is larger than {LARGEST / 1e6:.0f} MB unpacked")
            return {name: archive.read(name) for name in names if not name.endswith("/")}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise InputError(f"{origin}: is no bundle ({error})") from None


@dataclass(frozen=True)
class Change:
    """A file of a bundle against the one before.

    Attributes:
        name: Its path.
        what: "new", "changed", "gone" or "same".
        before: What it held.
        after: What it holds.
    """

    name: str
    what: str
    before: bytes = b""
    after: bytes = b""


def changes(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Change]:
    """Every file of two bundles, by name."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None:
            found.append(Change(name, "new", after=new or b""))
        elif new is None:
            found.append(Change(name, "gone", before=old))
        else:
            found.append(Change(name, "same" if old == new else "changed", old, new))
    return found


def approve(
    folder: Path,
    bundle: bytes,
    *,
    rebuilt: bool = False,
    constraints: bytes | None = None,
    note: str = "",
) -> Approval:
    """Sign that a bundle may run, and keep a copy to compare the next one with.

    Args:
        folder: The gate's.
        bundle: Its bytes.
        rebuilt: Whether it was built again from source.
        constraints: The file that pins the libraries.
        note: Whatever is to be remembered.

    Raises:
        InputError: If it is no bundle.
        LedgerError: If it cannot be written down.
    """
    sha256 = hashlib.sha256(bundle).hexdigest()
    files = files_in(bundle, sha256[:12])
    pinned = hashlib.sha256(constraints).hexdigest() if constraints is not None else ""
    copy = bundle_path(folder, sha256)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(bundle)
    event = {
        "kind": "approved",
        "bundle": sha256,
        "files": len(files),
        "rebuilt": rebuilt,
        "constraints": pinned,
        "note": note,
    }
    _write(folder, event)
    return next(found for found in reversed(listing(folder)) if found.sha256 == sha256)


def revoke(folder: Path, sha256: str, note: str = "") -> Approval:
    """Sign that a bundle may run no longer.

    Args:
        folder: The gate's.
        sha256: The bundle's, or its beginning.
        note: Whatever is to be remembered.

    Raises:
        InputError: If no approved bundle begins so, or several do.
    """
    matching = sorted(name for name in _standing(folder) if name.startswith(sha256))
    if len(matching) != 1:
        raise InputError(
            f"{sha256}: {len(matching) or 'no'} approved bundle(s) begin so; "
            "`sonofed gate approvals` lists them"
        )
    _write(folder, {"kind": "revoked", "bundle": matching[0], "note": note})
    return next(found for found in reversed(listing(folder)) if found.sha256 == matching[0])


def listing(folder: Path) -> list[Approval]:
    """Every approval, oldest first, and whether it still holds.

    Raises:
        InputError: If the approvals were changed.
    """
    if _looked_at(folder) is None:
        return []
    found: dict[str, Approval] = {}
    for line in read(folder / APPROVALS_FILE):
        event = line.event
        if event["kind"] == "approved":
            found.pop(event["bundle"], None)
            found[event["bundle"]] = Approval(
                event["bundle"], line.time, event["files"], event["rebuilt"],
                event["constraints"], event["note"],
            )  # fmt: skip
        elif event["kind"] == "revoked":
            old = found.pop(event["bundle"])
            found[old.sha256] = Approval(**{**vars(old), "revoked": line.time})
    return list(found.values())


def notes(folder: Path) -> list[str]:
    """What has happened to the file of approvals and is no proof of harm, in words.

    Whoever cuts the end off the file and takes its head file away undoes a revocation, and no
    signature shows it. The missing head file does, and later the line that tells of it.

    Raises:
        InputError: If the approvals were changed.
    """
    verdict = _looked_at(folder)
    if verdict is None:
        return []
    told = what_is_missing(folder)
    # No server gives receipts for approvals.
    return [*(note for note in verdict.notes if note != NO_RECEIPTS), *([told] if told else [])]


def what_is_missing(folder: Path) -> str:
    """That approvals have no head file, and what to do; empty where all is there."""
    path = folder / APPROVALS_FILE
    # A writer that is stopped at the very first line leaves none, and then nothing is approved.
    if not path.exists() or head_path(path).exists() or not listing(folder):
        return ""
    return (
        f"{head_path(path)} is gone, so nobody can say whether lines were cut off {path}, a "
        "revocation perhaps: look at `sonofed gate approvals`, then `sonofed gate revoke` what may "
        "not run and `sonofed gate approve` what may; that writes it anew"
    )


def _looked_at(folder: Path) -> Verdict | None:
    """The approvals, verified; None where there are none."""
    path = folder / APPROVALS_FILE
    if not path.exists():
        return None
    key = public_path(folder / KEY_FILE)
    verdict = verify(path, read_public_key(key) if key.exists() else None)
    if verdict.problem is not None:
        raise InputError(f"approvals are not to be trusted: {verdict.problem}")
    return verdict


def approved(folder: Path) -> frozenset[str]:
    """SHA-256 of every bundle that may run now; `load_policy` takes them.

    Raises:
        InputError: If the approvals were changed, or could have been cut.
    """
    if told := what_is_missing(folder):
        raise InputError(told)
    return _standing(folder)


def _standing(folder: Path) -> frozenset[str]:
    return frozenset(found.sha256 for found in listing(folder) if not found.revoked)


def latest(folder: Path) -> bytes | None:
    """The bundle that was approved last and still holds; None where there is none."""
    held = [found for found in listing(folder) if not found.revoked]
    if not held:
        return None
    path = bundle_path(folder, held[-1].sha256)
    bundle = read_bundle(path)
    if hashlib.sha256(bundle).hexdigest() != held[-1].sha256:
        raise InputError(f"{path}: is not the bundle that was approved")
    return bundle


def bundle_path(folder: Path, sha256: str) -> Path:
    """Where the copy of an approved bundle lies."""
    return folder / BUNDLES / f"{sha256}.fab"


def _write(folder: Path, event: Mapping[str, Any]) -> None:
    path = folder / KEY_FILE
    key = read_key(path) if path.exists() else make_key(path)
    with Ledger(folder / APPROVALS_FILE, key) as ledger:
        ledger.append(event)
