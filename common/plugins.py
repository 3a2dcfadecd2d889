"""Somebody's own parts, named in a study as `package.module:name`.

They are looked for among what is installed, then in the folder of the study file.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from common.errors import InputError

FOLDER_VARIABLE = "SONOFED_PARTS"
"""Environment variable: the folder beside what is installed. Worker processes inherit it."""


def look_in(folder: Path) -> None:
    """Have own parts looked for in a folder too, here and in every process started from here."""
    os.environ[FOLDER_VARIABLE] = str(folder.resolve())


def load_plugin(name: str, key: str) -> Any:
    """Import `package.module:name`.

    Args:
        name: What the study says.
        key: The study's key that says it, for the error.

    Raises:
        InputError: If the module cannot be imported, has no such name, or it cannot be called.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and folder not in sys.path:
        # Last, so that a file there never stands in for an installed module of its name.
        sys.path.append(folder)
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever somebody's module raises while it is imported
        raise InputError(
            f"{key}: {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    if not hasattr(module, attribute):
        raise InputError(f"{key}: {module_name} has no {attribute!r}")
    found = getattr(module, attribute)
    if not callable(found):
        raise InputError(f"{key}: {name!r} is no function or class")
    return found
