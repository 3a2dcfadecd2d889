"""A bundle's files: where each lies, and their digests, so that a changed file is refused.

A bundle is a MONAI Bundle in directory form; `digests.json` at its root names every other file
with its SHA-256. The digest of that file is the digest of the bundle.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

VERSION = 1
"""Of the layout; a reader refuses a newer one."""

DIGESTS = "digests.json"
METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
ENSEMBLE = "configs/ensemble.json"
FEDERATION = "configs/federation.json"
REFERENCE = "configs/reference.json"
STATE = "models/model.pt"
WEIGHTS = "models/model.safetensors"
ONNX = "models/model.onnx"
CARD = "docs/README.md"
SCHEMA = "docs/metadata.schema.json"
LICENSE = "LICENSE"

Digests = dict[str, str]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_digests(folder: Path) -> str:
    """Write `digests.json` over all files there are; the last step of an export.

    Returns:
        The bundle's digest.
    """
    files = {
        str(path.relative_to(folder).as_posix()): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DIGESTS
    }
    write_json(folder / DIGESTS, {"version": VERSION, "files": files})
    return sha256_of(folder / DIGESTS)


def bundle_digest(folder: Path) -> str:
    """SHA-256 of `digests.json`: it covers every file that the bundle was made of."""
    return sha256_of(folder / DIGESTS)


def verify(folder: Path) -> Digests:
    """Hold every file of a bundle to its digest.

    Files that the list does not name are not looked at: nothing here reads them.

    Returns:
        Path within the bundle to SHA-256.

    Raises:
        InputError: If it is no bundle, is of a newer version, or with every file that is missing
            or has been changed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such bundle folder")
    listed = read_json(folder / DIGESTS)
    check_version(listed, folder / DIGESTS)
    files = listed.get("files")
    if not isinstance(files, dict) or not files:
        raise InputError(f"{folder / DIGESTS}: names no files")
    problems = list(_problems(folder, files))
    missing = [name for name in (METADATA, ENSEMBLE, WEIGHTS) if name not in files]
    problems += [f"{folder / DIGESTS}: does not name {name}" for name in missing]
    if problems:
        raise InputError(problems)
    return dict(files)


def _problems(folder: Path, files: dict[str, str]) -> Iterator[str]:
    for name, digest in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"{folder / DIGESTS}: '{name}' leads out of the bundle"
        elif not path.is_file():
            yield f"{path}: is missing from the bundle"
        elif sha256_of(path) != digest:
            yield f"{path}: has been changed since the bundle was made; it is not used"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a bundle.

    Raises:
        InputError: If there is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: is not there; is {path.parent} a sonofed bundle?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object")
    return value


def check_version(value: dict[str, Any], path: Path) -> None:
    """Refuse what a later sonofed wrote, and what has no version.

    Raises:
        InputError: Saying which version it is and which one is known.
    """
    version = value.get("version")
    if not isinstance(version, int):
        raise InputError(f"{path}: says no bundle version")
    if version > VERSION:
        raise InputError(
            f"{path}: bundle version {version} is newer than this sonofed knows ({VERSION}); "
            "update sonofed"
        )
