"""Reading a policy: TOML, its manifests held to their digests, every mistake named at once."""

import difflib
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from clients.gate import manifest
from clients.gate.policy import Policy
from clients.gate.rules import PolicyFile
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
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such policy") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from None
    return parse(tables, str(path))


def parse(tables: Mapping[str, Any], origin: str) -> PolicyFile:
    """Validate tables as a policy; see `load_policy`."""
    try:
        return PolicyFile.model_validate(dict(tables))
    except ValidationError as error:
        raise InputError([f"{origin}: {line}" for line in _sentences(error)]) from None


def _sentences(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        name = ".".join(place)
        if detail["type"] == "extra_forbidden":
            known = _known_keys(place[:-1])
            near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            yield f"{name}: unknown key{hint}"
        elif detail["type"] == "missing":
            yield f"{name}: is missing"
        else:
            message = detail["msg"][0].lower() + detail["msg"][1:]
            yield f"{name}: {message} (given: {detail['input']!r:.80})"


def _known_keys(place: list[str]) -> list[str]:
    """Keys of the table at a place in the policy, such as ["stages", "mim"]."""
    model: type[BaseModel] = PolicyFile
    for part in place:
        found = model.model_fields.get(part)
        if found is None:
            continue  # the name of a study, stage or metric
        models = [
            item
            for item in (found.annotation, *get_args(found.annotation))
            if isinstance(item, type) and issubclass(item, BaseModel)
        ]
        if models:
            model = models[0]
    return list(model.model_fields)
