"""Reading a study: TOML, `--set` overrides, and every mistake named at once."""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.config.arms import ARMS
from common.config.data import nearest
from common.config.study import Study
from common.config.tables import known_keys, read_tables
from common.errors import InputError

FINETUNES = ("finetune_mim", "finetune_contrastive", "lower", "upper", "finetune_selected")


def load_study(path: Path, overrides: Iterable[str] = ()) -> Study:
    """Read a study.

    Args:
        path: The TOML file. Its `[finetune]` table holds what `[finetune_mim]`,
            `[finetune_contrastive]`, `[lower]`, `[upper]` and `[finetune_selected]` have in common.
        overrides: `key=value`, dotted keys, TOML values (bare words are strings).

    Returns:
        The study, all defaults filled in.

    Raises:
        InputError: Naming every unknown key (and the nearest known one) and every bad value.
    """
    tables = read_tables(path, "no such study")
    for override in overrides:
        _set(tables, override)
    return parse_study(tables, str(path))


def parse_study(tables: Mapping[str, Any], origin: str) -> Study:
    """Validate tables as a study; see `load_study`."""
    merged = dict(tables)
    shared = merged.pop("finetune", {})
    wrong = [] if isinstance(shared, Mapping) else [_no_table("finetune", shared)]
    for stage in FINETUNES:
        own = merged.get(stage, {})
        if isinstance(shared, Mapping) and isinstance(own, Mapping) and (shared or own):
            merged[stage] = {**shared, **own}
    study = None
    try:
        study = Study.model_validate(merged)
    except ValidationError as error:
        wrong += _sentences(error, tables)
        wrong += _across(merged, error, tables)
    if study is None or wrong:
        # A mistake in the shared table shows in each table that inherits it.
        raise InputError(list(dict.fromkeys(f"{origin}: {line}" for line in wrong)))
    return study


def _no_table(name: str, value: object) -> str:
    return f"{name}: input should be a table (given: {value!r:.80})"


def _across(
    merged: Mapping[str, Any], error: ValidationError, tables: Mapping[str, Any]
) -> list[str]:
    """What does not fit together besides: the study again, its wrong keys at their defaults."""
    rest: dict[str, Any] = copy.deepcopy(dict(merged))
    places = {detail["loc"] for detail in error.errors() if detail["loc"]}
    for place in places:
        table: Any = rest
        for part in place[:-1]:
            if not isinstance(table, dict) or not isinstance(table.get(part), dict):
                break
            table = table[part]
        else:
            table.pop(place[-1], None)
            continue
        # Inside a list or a union: the key that holds it goes.
        if isinstance(table, dict):
            table.pop(part, None)
    try:
        Study.model_validate(rest)
    except ValidationError as left:
        # Tables are held against each other only where every key is sound: then no error has a
        # place. Another error means that a key without a default went.
        if not any(detail["loc"] for detail in left.errors()):
            return list(_sentences(left, tables))
    return []


def parse_value(text: str) -> Any:
    """Read one TOML value; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"--set {override}: write it as key=value, such as mim.epochs=5")
    table = tables
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override}: {part} is no table")
    table[parts[-1]] = parse_value(text.strip())


def _is_shared(place: list[str], tables: Mapping[str, Any]) -> bool:
    """Whether a key of a fine-tuning table was said in [finetune], and not in its own table."""
    own = tables.get(place[0], {})
    return place[0] in FINETUNES and place[1] in tables.get("finetune", {}) and place[1] not in own


def _no_arm(name: object) -> str:
    hint = nearest(name, ARMS) if isinstance(name, str) else ""
    if ":" in str(name):
        hint = "; a strategy of your own is written package.module:name"
    return f"arms: no arm {name!r:.80}{hint}"


def _sentences(error: ValidationError, tables: Mapping[str, Any]) -> Iterable[str]:
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        if place[:1] == ["arms"] and len(place) > 1:
            # Every kind of arm has its own list, and each says that the name is none of its own.
            yield _no_arm(detail["input"])
            continue
        if len(place) > 1 and isinstance(tables.get("finetune"), Mapping):
            place[0] = "finetune" if _is_shared(place, tables) else place[0]
        # A union reports each of its branches; the branch's name is no key of the study.
        place = [part for part in place if "[" not in part and part not in ("str", "int", "float")]
        name = ".".join(part for part in place if not part.startswith("literal"))
        if detail["type"] == "extra_forbidden":
            known = known_keys(Study, [str(part) for part in detail["loc"][:-1]])
            at_top = len(detail["loc"]) == 1
            hint = nearest(place[-1], [*known, "finetune"] if at_top else known)
            yield f"{name}: unknown key{hint}"
        elif detail["type"] == "value_error":
            prefix = f"{name}: " if name else ""
            for line in str(detail["ctx"]["error"]).splitlines():
                yield prefix + line
        else:
            given = "" if detail["type"] == "missing" else f" (given: {detail['input']!r:.80})"
            yield f"{name}: {detail['msg'][0].lower()}{detail['msg'][1:]}{given}"
