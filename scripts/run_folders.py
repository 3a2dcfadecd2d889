"""Run folders as other commands see them: where they are, how far they are, what they say."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

QUIET_S = 600.0
"""A run that has said nothing for so long is not running any more."""


@dataclass(frozen=True)
class RunStatus:
    """One run at a glance.

    Attributes:
        folder: Where it lies.
        name: The study's.
        seed: The study's.
        digest: First 8 characters of the study's SHA-256.
        state: "finished", "running?" (its files change), "stopped" (it said so, or is silent).
        place: Where it stands, e.g. "mim/mim round 2/5".
        age_s: Seconds since it began.
        marks: "synthetic", "untrained".
    """

    folder: Path
    name: str
    seed: int
    digest: str
    state: str
    place: str
    age_s: float
    marks: tuple[str, ...]


def find_runs(paths: Sequence[Path], depth: int = 2) -> list[Path]:
    """Run folders among the paths and below them (a sweep's folder holds its runs).

    Raises:
        InputError: Naming every path that is no run and holds none.
    """
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        runs = list(_below(path, depth))
        if not runs:
            problems.append(f"{path}: is no run folder and holds none")
        found |= dict.fromkeys(runs)
    if problems:
        raise InputError(problems)
    return list(found)


def _below(path: Path, depth: int) -> Iterator[Path]:
    if (path / "study.json").is_file():
        yield path
    elif depth and path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _below(inner, depth - 1)


def read_study(folder: Path) -> dict[str, Any]:
    """The resolved study of a run, as its study.json has it.

    Raises:
        InputError: If it is not readable.
    """
    path = folder / "study.json"
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: no run here (there is no study.json)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: is not readable as JSON ({error})") from None
    if not isinstance(study, dict):
        raise InputError(f"{path}: is no study")
    return study


def status_of(folder: Path, now: float | None = None) -> RunStatus:
    """How far a run is.

    Args:
        folder: A run folder.
        now: Seconds since 1970; for tests.
    """
    moment = time.time() if now is None else now
    study = read_study(folder)
    events = _events(folder / "metrics.jsonl")
    digest = next((e["digest"] for e in events if e.get("event") == "study"), "")
    written = (folder / "study.json").stat().st_mtime
    state = _state(folder, events, moment)
    marks = [mark for mark, is_so in (
        ("synthetic", study.get("phantom") is not None), ("untrained", bool(study.get("untrained")))
    ) if is_so]  # fmt: skip
    return RunStatus(
        folder,
        str(study.get("name", "?")),
        int(study.get("seed", 0)),
        digest[:8],
        state,
        "" if state == "finished" else _place(events),
        moment - written,
        tuple(marks),
    )


def _state(folder: Path, events: list[dict[str, Any]], now: float) -> str:
    if (folder / "results.json").exists():
        return "finished"
    if events and events[-1].get("event") == "end":
        return "stopped"
    files = [folder / "study.json", folder / "metrics.jsonl", *folder.glob("sites/*/epochs.jsonl")]
    latest = max(path.stat().st_mtime for path in files if path.exists())
    return "running?" if now - latest < QUIET_S else "stopped"


def _place(events: list[dict[str, Any]]) -> str:
    """The last thing that got done."""
    for event in reversed(events):
        if event.get("event") == "round":
            return f"{event['training']} round {event['round']}/{event['rounds']}"
        if event.get("event") == "predict":
            return f"evaluate {event['member']}"
        if event.get("event") == "study":
            return "before its first round"
    return "before its first round"


def _events(path: Path) -> list[dict[str, Any]]:
    """Whatever is whole in metrics.jsonl; this is a glance, not a check."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
