"""TOML files that a person writes: read, and every mistake said in a sentence of its own."""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from common.config.data import nearest
from common.errors import InputError


def read_tables(path: Path, absent: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: The file.
        absent: What to say where there is none.

    Raises:
        InputError: If it is not there or not readable.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: {absent}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from None


def sentences(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """What is wrong with a file's tables, each mistake once.

    Args:
        error: pydantic's.
        model: What the tables were to be: an unknown key is answered with the nearest known one.
    """
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        name = ".".join(place)
        match detail["type"]:
            case "extra_forbidden":
                hint = nearest(place[-1], known_keys(model, place[:-1]))
                yield f"{name}: unknown key{hint}"
            case "missing":
                yield f"{name}: is missing"
            case "model_type":
                yield f"{name}: should be a table (given: {detail['input']!r:.80})"
            case "value_error":
                yield f"{name}: {detail['ctx']['error']} (given: {detail['input']!r:.80})"
            case _:
                message = detail["msg"][0].lower() + detail["msg"][1:]
                yield f"{name}: {message} (given: {detail['input']!r:.80})"


def known_keys(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Keys of the table at a place, such as ["stages", "mim"]; names of people's own are passed."""
    for part in place:
        field = model.model_fields.get(part)
        if field is None:
            continue  # the name of a site, study, stage or metric
        models = [
            item
            for item in (field.annotation, *get_args(field.annotation))
            if isinstance(item, type) and issubclass(item, BaseModel)
        ]
        if models:
            model = models[0]
    return list(model.model_fields)
