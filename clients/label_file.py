"""The table of labels that readers fill in, and what it says when it comes back."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from clients.data.cache import Digests
from clients.data.manifest import read_manifest
from clients.data.unreadable import UnreadableError
from clients.forms.masks import read_outline
from clients.forms.names import wanted_images
from clients.forms.said import Said, Worklists
from clients.settings import SiteSettings
from clients.words import LABEL_COLUMNS
from common.config.data import nearest
from common.errors import InputError

Sizes = Callable[[str], tuple[int, int] | None]

IMAGE = "image"
"""A further column of the template, so that the reader finds the file; an import ignores it."""
OUTLINE = "outline"
"""A further column of an export: the mask of the line's reader, PNG or .seg.nrrd, by the table."""


def image_files(site: SiteSettings) -> dict[str, Path]:
    """The image file of each id in a site's manifest.

    Raises:
        InputError: If the manifest is not sound.
    """
    return {row.id: row.image for row in read_manifest(site.data_folder, site.data)}


def write_template(path: Path, site: SiteSettings, worklists: Worklists) -> int:
    """Write the table that readers fill in: all but label, reader and time.

    Returns:
        Its number of images.

    Raises:
        InputError: If the file is there already, or a selected image is not in the manifest.
    """
    if path.exists():
        raise InputError(f"{path}: is there already; labels may be in it")
    wanted, files, digests = wanted_images(worklists), image_files(site), Digests(site.cache)
    lost = [id_ for id_ in wanted if id_ not in files]
    if lost:
        raise InputError([f"{site.data_folder}: no longer names the image {id_!r}" for id_ in lost])
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*LABEL_COLUMNS, IMAGE))
            for id_ in wanted:
                writer.writerow((id_, "", "", "", digests.of(files[id_]), files[id_]))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return len(wanted)


def read_words(
    path: Path, classes: Sequence[str] = (), sizes: Sizes = lambda id_: None
) -> tuple[list[Said], int]:
    """What a table says, not yet checked against the site.

    Args:
        path: A table with the columns of labels.csv, and maybe `image` and `outline`.
        classes: Of an outline; empty for binary ones.
        sizes: Height and width of an image, None where it is not known.

    Returns:
        A word a line, and the number of lines that say nothing yet.

    Raises:
        InputError: If there are no such columns, or an outline cannot be read.
    """
    found, problems, silent = [], [], 0
    for number, line in _lines(path):
        where, mask = f"{path}: row {number}", None
        if line.get(OUTLINE):
            try:
                mask = read_outline(path.parent / line[OUTLINE], classes, sizes(line["id"]))
            except UnreadableError as error:
                problems.append(f"{where}: outline {line[OUTLINE]} {error}")
                continue
        if not line["label"] and mask is None:
            silent += 1
            continue
        found.append(Said(
            where, line["id"], line["label"], line["reader"], line["time"], line["image_sha256"],
            mask,
        ))  # fmt: skip
    if problems:
        raise InputError(problems)
    return found, silent


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The file's lines under its own header, with their row numbers, the header being row 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    records = [
        (number, [cell.strip() for cell in cells])
        for number, cells in enumerate(csv.reader(text.splitlines(keepends=True)), start=1)
        if any(cell.strip() for cell in cells)
    ]
    if not records:
        raise InputError(f"{path}: is empty")
    header = records[0][1]
    allowed = (*LABEL_COLUMNS, IMAGE, OUTLINE)
    problems = [
        f"{path}: the column {name!r} is unknown{nearest(name, allowed)}"
        for name in dict.fromkeys(header)
        if name not in allowed
    ]
    problems += [f"{path}: the column {n!r} is missing" for n in LABEL_COLUMNS if n not in header]
    problems += [
        f"{path}: two columns are called {name!r}"
        for name in dict.fromkeys(header)
        if header.count(name) > 1
    ]
    if problems:
        raise InputError(problems)
    wrong = [
        f"{path}: row {number}: has {len(cells)} cells, the header has {len(header)}"
        for number, cells in records[1:]
        if len(cells) != len(header)
    ]
    if wrong:
        raise InputError(wrong)
    return [(n, dict(zip(header, cells, strict=True))) for n, cells in records[1:]]
