"""Reading and writing the files: typed objects, or an `InputError` that names file and line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from common.errors import InputError
from common.formats.events import EpochLine, Event
from common.formats.results import Results

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
_EPOCH: TypeAdapter[EpochLine] = TypeAdapter(EpochLine)

T = TypeVar("T")


def parse_event(line: str) -> Event:
    """One line of metrics.jsonl.

    Raises:
        ValidationError: If it is none of `EVENTS`.
    """
    return _EVENT.validate_json(line)


def read_events(path: Path) -> list[Event]:
    """All events of a metrics.jsonl, in order.

    Raises:
        InputError: If the file is missing, or with every line that is no event.
    """
    return _read_lines(path, _EVENT)


def read_epochs(path: Path) -> list[EpochLine]:
    """All lines of an epochs.jsonl, in order.

    Raises:
        InputError: If the file is missing, or with every line that is no epoch.
    """
    return _read_lines(path, _EPOCH)


def read_results(path: Path) -> Results:
    """A results.json.

    Raises:
        InputError: If the file is missing or not of this format; all problems at once.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError([f"{path}: {text}" for text in _plain(error)]) from error


def _read_lines(path: Path, adapter: TypeAdapter[T]) -> list[T]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    lines = text.split("\n")
    # A killed run may leave half a line at the end; the resumed run writes that event again.
    complete = lines[:-1]
    found: list[T] = []
    problems: list[str] = []
    for number, line in enumerate(complete, start=1):
        if not line.strip():
            continue
        try:
            found.append(adapter.validate_json(line))
        except ValidationError as error:
            problems += [f"{path}, line {number}: {text}" for text in _plain(error)]
    if problems:
        raise InputError(problems)
    return found


def _plain(error: ValidationError) -> Sequence[str]:
    """Pydantic's problems as sentences."""
    return [
        f"{'.'.join(str(step) for step in problem['loc']) or 'the line'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    ]


def dump_line(event: dict[str, object]) -> str:
    """An event or epoch as its line, without the newline; refuses what a reader would refuse.

    Raises:
        ValidationError: If it is no event (or epoch).
    """
    line = json.dumps(event, ensure_ascii=False)
    if "event" in event:
        _EVENT.validate_json(line)
    else:
        _EPOCH.validate_json(line)
    return line
