"""Every key a study may have, as its models declare it: default, range, meaning, paper."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common.config.compare import flatten, told
from common.config.study import Study

SITE = "<site>"
"""Stands for a site's name in a key."""

PLUGIN = "package.module:name"


@dataclass(frozen=True)
class Option:
    """One key of a study.

    Attributes:
        key: Dotted, e.g. "mim.epochs"; "sites.<site>.role".
        default: As a study file would say it; "required", or "unset" for None.
        allowed: Range or choices, e.g. ">= 1, <= 100000" or "mean | fedprox".
        text: What it means.
        paper: Where the papers set it, or "".
    """

    key: str
    default: str
    allowed: str
    text: str
    paper: str


def options() -> list[Option]:
    """All keys in the study's order; tables stand as their keys."""
    return list(_walk(Study, ""))


def resolved(study: Study) -> dict[str, str]:
    """Every key of a study and its value, as a study file would say it, sites by their names."""
    return {key: _told(value) for key, value in flatten(study.model_dump(mode="json")).items()}


def generic(key: str) -> str:
    """The key with `<site>` for a site's name: sites.north.role -> sites.<site>.role."""
    parts = key.split(".")
    if parts[0] == "sites" and len(parts) > 1:
        parts[1] = SITE
    return ".".join(parts)


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = _table(field.annotation)
        if inner is not None:
            place = f"{key}.{SITE}." if get_origin(field.annotation) is dict else f"{key}."
            yield from _walk(inner, place)
            continue
        extra = field.json_schema_extra
        paper = str(extra.get("paper", "")) if isinstance(extra, dict) else ""
        yield Option(key, _default(field), _allowed(field), field.description or "", paper)


def _table(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds: itself, optional, or one a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else _told(value)


def _told(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, str):
        return f'"{value}"'
    return told(list(value) if isinstance(value, tuple) else value)


def _allowed(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_number(value)}"
        for sign, value in (_bound(item) for item in field.metadata)
        if sign
    ]
    return ", ".join(bounds) or _type(field.annotation)


def _bound(item: Any) -> tuple[str, Any]:
    match item:
        case Ge(ge=value):
            return ">=", value
        case Gt(gt=value):
            return ">", value
        case Le(le=value):
            return "<=", value
        case Lt(lt=value):
            return "<", value
    return "", None


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is Annotated:
        return PLUGIN
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type(p) for p in parts if p is not types.NoneType))
    if origin is tuple:
        return f"list of {_type(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} numbers"
    if origin is dict:
        return "table"
    names = {bool: "true | false", str: "text", int: "whole number", float: "number"}
    return names.get(annotation, "text")
