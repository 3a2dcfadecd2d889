"""The anatomies the phantom knows, by name."""

from __future__ import annotations

from collections.abc import Callable

from clients.phantom.breast import Breast
from clients.phantom.tissue import Anatomy
from clients.phantom.wrist import Wrist

ANATOMIES: dict[str, Callable[[tuple[object, ...], int], Anatomy]] = {
    "wrist": Wrist,
    "breast": Breast,
}
"""Each takes the names of the patient and the number of the sweep."""
