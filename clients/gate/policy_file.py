"""Reading a policy: TOML, its manifests held to their digests, every mistake named at once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clients.gate import manifest
from clients.gate.policy import Policy
from clients.gate.rules import PolicyFile
from common.config.tables import read_tables, sentences
from common.errors import InputError


def load_policy(path: Path, approved: frozenset[str] = frozenset()) -> Policy:
    """Read a policy and the manifests that it names.

    Args:
        path: The TOML file; manifests lie beside it.
        approved: SHA-256 of bundles approved elsewhere.

    Raises:
        InputError: Naming every unknown key (and the nearest known one), every bad value, and
            every manifest that is missing or not the one whose digest the policy holds.
    """
    file = load_file(path)
    manifests, problems = {}, []
    for name, entry in file.studies.items():
        place = path.parent / entry.manifest
        try:
            found = hashlib.sha256(place.read_bytes()).hexdigest()
            if found != entry.sha256:
                problems.append(
                    f"{path}: studies.{name}: {place} has SHA-256 {found}, not the {entry.sha256} "
                    "that the policy holds"
                )
                continue
            manifests[name] = manifest.read(place)
        except OSError as error:
            problems.append(f"{path}: studies.{name}: {place}: {error.strerror}")
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return Policy(file, manifests, approved)


def load_file(path: Path) -> PolicyFile:
    """Read the file alone.

    Raises:
        InputError: See `load_policy`.
    """
    tables = read_tables(path, "no such policy")
    return parse(tables, str(path))


def parse(tables: Mapping[str, Any], origin: str) -> PolicyFile:
    """Validate tables as a policy; see `load_policy`."""
    try:
        return PolicyFile.model_validate(dict(tables))
    except ValidationError as error:
        raise InputError([f"{origin}: {line}" for line in sentences(error, PolicyFile)]) from None
