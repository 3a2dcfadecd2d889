"""The anatomies the phantom knows, by name."""

from __future__ import annotations

from collections.abc import Callable

from scripts.phantom.breast import Breast
from scripts.phantom.tissue import Anatomy
from scripts.phantom.wrist import Wrist

ANATOMIES: dict[str, Callable[[tuple[object, ...], int], Anatomy]] = {
    "wrist": Wrist,
    "breast": Breast,
}
"""Each takes the names of the patient and the number of the sweep."""
