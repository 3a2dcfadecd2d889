"""Two resolved studies beside each other: which keys differ."""

import json
from collections.abc import Mapping
from typing import Any


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys, e.g. {"mim.epochs": 10}; an empty table is its own value."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name + ".")
        else:
            flat[name] = value
    return flat


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; None stands for a missing key."""
    a, b = flatten(one), flatten(other)
    return {
        key: (a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)
    }


def told(value: Any) -> str:
    """A value as a study file would say it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
