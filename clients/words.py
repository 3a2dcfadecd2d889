"""What readers say of images, each word with its reader and time: three tables in a site's folder.

`labels.csv` has the labels; `outlines.csv` who outlined what, the masks themselves lying in
`outlines/` under the SHA-256 of their file; `decisions.csv` what somebody decided where readers
disagreed. An empty word takes an earlier one back.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clients.tables import one_writer, read_table, write_bytes, write_table
from common.errors import InputError

LABELS = "labels.csv"
LABEL_COLUMNS = ("id", "label", "reader", "time", "image_sha256")
OUTLINES = "outlines.csv"
OUTLINE_COLUMNS = ("id", "outline", "reader", "time", "image_sha256")
OUTLINE_FOLDER = "outlines"
CLOSED_OUTLINES = "outlined.csv"
DECISIONS = "decisions.csv"
DECISION_COLUMNS = ("id", "what", "word", "reader", "time", "image_sha256")
PLAYED = "manifest"
"""The reader whose words are the manifest's own labels, in a simulation."""

What = Literal["label", "outline"]


@dataclass(frozen=True)
class Label:
    """What one reader said of one image.

    Attributes:
        id: The image.
        label: One of the study's labels; empty: the reader takes back what was said.
        reader: Who said it.
        time: When, as `utc` writes it.
        image_sha256: Of the image's file as the reader saw it.
    """

    id: str
    label: str
    reader: str
    time: str
    image_sha256: str


@dataclass(frozen=True)
class Outline:
    """What one reader outlined in one image.

    Attributes:
        id: The image.
        outline: SHA-256 of the mask's file; empty: the reader takes the outline back.
        reader: Who drew it.
        time: When, as `utc` writes it.
        image_sha256: Of the image's file as the reader saw it.
    """

    id: str
    outline: str
    reader: str
    time: str
    image_sha256: str


@dataclass(frozen=True)
class Decision:
    """What somebody decided of one image, with all readers' words in sight.

    Attributes:
        id: The image.
        what: Whether it is about its label or its outline.
        word: The label, or the outline's SHA-256, that counts; empty: nothing is decided any more.
        reader: Who decided.
        time: When, as `utc` writes it.
        image_sha256: Of the image's file as the reader saw it.
    """

    id: str
    what: str
    word: str
    reader: str
    time: str
    image_sha256: str


def utc(text: str) -> str:
    """A time in ISO 8601 as the tables keep it: UTC, `2027-03-01T09:30:00Z`.

    A time without an offset is taken for UTC.

    Raises:
        ValueError: If it is no such time.
    """
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def moment(word: Label | Outline | Decision) -> datetime:
    """When it was said."""
    return datetime.fromisoformat(word.time)


def now_after(words: Sequence[Label | Outline | Decision]) -> str:
    """The time now, later than any of these even where the clock was set back."""
    now = datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    latest = max((moment(word) for word in words), default=now - timedelta(days=1))
    return utc(max(now, latest + timedelta(milliseconds=1)).isoformat())


def read_labels(site_folder: Path) -> list[Label]:
    """All labels that were given at a site, in the order in which they came."""
    return [Label(**row) for row in read_table(site_folder / LABELS, LABEL_COLUMNS)]


def add_labels(site_folder: Path, new: Sequence[Label]) -> list[Label]:
    """Add lines to labels.csv, each once, all of them or none.

    Returns:
        Those that were not there yet.
    """
    with one_writer(site_folder):
        old = read_labels(site_folder)
        known = set(old)
        added = [label for label in dict.fromkeys(new) if label not in known]
        if added:
            rows = [_cells(label) for label in (*old, *added)]
            write_table(site_folder / LABELS, LABEL_COLUMNS, rows)
    return added


def read_outlines(site_folder: Path) -> list[Outline]:
    """Each reader's outline of each image, the latest alone."""
    return [Outline(**row) for row in read_table(site_folder / OUTLINES, OUTLINE_COLUMNS)]


def add_outlines(
    site_folder: Path, new: Sequence[Outline], masks: Mapping[str, bytes]
) -> list[Outline]:
    """Add outlines with their masks; a reader's later outline replaces the earlier.

    Args:
        site_folder: The site's own folder.
        new: The lines.
        masks: SHA-256 to the file's bytes, of each mask that they name.

    Returns:
        Those that changed anything.
    """
    with one_writer(site_folder):
        kept = {(line.id, line.reader): line for line in read_outlines(site_folder)}
        before = {line.outline for line in kept.values()}
        added = []
        for line in new:
            known = kept.get((line.id, line.reader))
            if known == line or (known is not None and moment(known) > moment(line)):
                continue
            if line.outline:
                path = outline_path(site_folder, line.outline)
                if not path.exists():
                    write_bytes(path, masks[line.outline])
            kept[line.id, line.reader] = line
            added.append(line)
        if added:
            rows = [_cells(line) for line in kept.values()]
            write_table(site_folder / OUTLINES, OUTLINE_COLUMNS, rows)
            _drop(site_folder, before - {line.outline for line in kept.values()} - {""})
    return added


def _drop(site_folder: Path, masks: set[str]) -> None:
    """Remove masks that no line names any more; every stroke of the desk replaces one."""
    if not masks:
        return
    masks -= {line.word for line in read_decisions(site_folder)}
    closed = site_folder / "selection" / CLOSED_OUTLINES
    text = closed.read_text(encoding="utf-8") if closed.exists() else ""
    for mask in masks:
        if mask not in text:
            outline_path(site_folder, mask).unlink(missing_ok=True)


def read_decisions(site_folder: Path) -> list[Decision]:
    """All that was decided at a site, in the order in which it came."""
    return [Decision(**row) for row in read_table(site_folder / DECISIONS, DECISION_COLUMNS)]


def add_decision(site_folder: Path, decision: Decision) -> None:
    """Add a line to decisions.csv."""
    with one_writer(site_folder):
        rows = [_cells(line) for line in (*read_decisions(site_folder), decision)]
        write_table(site_folder / DECISIONS, DECISION_COLUMNS, rows)


def _cells(line: Label | Outline | Decision) -> tuple[str, ...]:
    # As dataclasses.astuple, which copies deeply and takes seconds for a long table.
    return tuple(vars(line).values())


def outline_path(site_folder: Path, outline: str) -> Path:
    """Where a mask lies."""
    return site_folder / OUTLINE_FOLDER / f"{outline}.png"


def mask_file(labels_HW: NDArray[np.uint8], classes: int) -> tuple[str, bytes]:
    """A mask as a manifest's masks are: PNG of 0 and 255, or of the numbers of the classes.

    Args:
        labels_HW: 0 background, k class k; 1 in a binary mask.
        classes: 0 for a binary mask.

    Returns:
        SHA-256 of the file, by which it is named, and its bytes.
    """
    values = labels_HW if classes else (labels_HW > 0).astype(np.uint8) * np.uint8(255)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    content = buffer.getvalue()
    return hashlib.sha256(content).hexdigest(), content


def read_mask_of(site_folder: Path, outline: str, classes: int) -> NDArray[np.uint8]:
    """A kept mask: (H, W), 0 background, k class k; raises as `read_outline_file`."""
    values = read_outline_file(site_folder, outline)
    return (values if classes else values > 127).astype(np.uint8)


def read_outline_file(site_folder: Path, outline: str) -> NDArray[np.uint8]:
    """A kept mask's values as its file has them.

    Raises:
        InputError: If it is not there, or another than was kept.
    """
    path = outline_path(site_folder, outline)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != outline:
        raise InputError(f"{path}: is not the mask that was drawn; its SHA-256 is another")
    return np.asarray(Image.open(io.BytesIO(content), formats=("PNG",)), np.uint8)
