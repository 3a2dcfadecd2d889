"""What other tools' files say, whatever their form: `sonofed labels import`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.asked import Asked
from clients.data.readers import UnreadableError
from clients.forms.coco import from_coco
from clients.forms.export import TABLE
from clients.forms.label_studio import from_label_studio
from clients.forms.said import Believed, Checker, Said, Worklists, believe
from clients.forms.tasks import Tasks, read_tasks
from clients.label_file import read_words
from clients.settings import SiteSettings
from clients.words import add_labels, add_outlines, read_labels, read_outlines, utc
from common.errors import InputError


def bring(
    path: Path, site: SiteSettings, asked: Asked, worklists: Worklists, reader: str
) -> tuple[Believed, int]:
    """Check a file whole, and then take what is new in it.

    Args:
        path: A table, a COCO or Label Studio document, or the folder of an export.
        site: The site.
        asked: What the study asks.
        worklists: What was selected.
        reader: Who spoke where the file does not say.

    Returns:
        What was taken, and how many lines of a table say nothing yet.

    Raises:
        InputError: With every problem of the file; then nothing is taken.
    """
    path = path / TABLE if path.is_dir() else path
    tasks = read_tasks(site, asked)
    words, silent = _read(path, tasks, reader)
    labels, outlines = read_labels(site.folder), read_outlines(site.folder)
    checker = Checker(site, worklists, asked.labels, labels)
    found = believe(words, checker, asked, labels, outlines)
    added = add_labels(site.folder, found.labels)
    drawn = add_outlines(site.folder, found.outlines, found.masks)
    known = found.known + len(found.labels) - len(added) + len(found.outlines) - len(drawn)
    return Believed(added, drawn, found.masks, known), silent


def _read(path: Path, tasks: Tasks, reader: str) -> tuple[list[Said], int]:
    if path.suffix.lower() != ".json":
        ids = {task.row.id: task for task in tasks.tasks}

        def size(id_: str) -> tuple[int, int] | None:
            try:
                return tasks.size(ids[id_]) if id_ in ids else None
            except (InputError, UnreadableError):
                return None  # said where the line is held against its image

        return read_words(path, tasks.asked.classes, size)
    document = _json(path)
    time = utc(datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat())
    if isinstance(document, list):
        return from_label_studio(document, tasks, str(path), reader, time), 0
    return from_coco(document, tasks, str(path), reader, time), 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: is not readable as JSON ({error})") from None
