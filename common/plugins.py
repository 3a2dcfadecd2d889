"""Somebody's own parts, named in a study as `package.module:name`."""

import importlib
from typing import Any

from common.errors import InputError


def load_plugin(name: str, key: str) -> Any:
    """Import `package.module:name`.

    Args:
        name: What the study says.
        key: The study's key that says it, for the error.

    Raises:
        InputError: If the module or the name in it does not exist.
    """
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise InputError(f"{key}: {name!r} cannot be imported: {error}") from None
    except AttributeError:
        raise InputError(f"{key}: {module_name} has no {attribute!r}") from None
