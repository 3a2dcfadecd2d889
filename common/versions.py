"""Which versions the two sides of a consortium have, and whether they can work together.

Messages, manifests and bundles are the same on both sides only where `sonofed` is; what goes over
the line is Flower's, which keeps its form within a minor version.
"""

import importlib.metadata
import re
from collections.abc import Mapping

PARTS = {"sonofed": 3, "flwr": 2}
"""How many parts of each version must agree."""


def versions() -> dict[str, str]:
    """Of what must agree, as it is installed here."""
    found = {}
    for package in PARTS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def differences(theirs: Mapping[str, str]) -> list[str]:
    """What differs from the other side's in what matters, one clause each.

    Args:
        theirs: Versions there; what is not named is not compared.
    """
    ours = versions()
    return [
        f"{package} is {ours[package]} here and {theirs[package]} at the center"
        for package in _differing(ours, theirs)
    ]


def is_behind(theirs: Mapping[str, str]) -> bool:
    """Whether anything that matters is older here than there."""
    ours = versions()
    return any(
        _parts(package, ours[package]) < _parts(package, theirs[package])
        for package in _differing(ours, theirs)
    )


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    return [
        package
        for package in PARTS
        if package in ours
        and package in theirs
        and _parts(package, ours[package]) != _parts(package, theirs[package])
    ]


def _parts(package: str, version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[: PARTS[package]])
