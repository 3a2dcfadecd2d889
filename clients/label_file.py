"""Files of labels from outside: checked line by line before anything of them is believed."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.annotations import LABEL_COLUMNS, Choice, Label, utc
from clients.data.cache import Digests
from clients.data.manifest import read_manifest
from clients.settings import SiteSettings
from common.config.data import nearest
from common.errors import InputError

IMAGE = "image"
"""A further column of the template, so that the reader finds the file; an import ignores it."""

Worklists = Mapping[tuple[str, str], Sequence[Choice]]


def wanted_images(worklists: Worklists) -> list[str]:
    """The images of all worklists, each once, by their best rank; of equal ranks by name."""
    best: dict[str, int] = {}
    for choices in worklists.values():
        for choice in choices:
            best[choice.id] = min(choice.rank, best.get(choice.id, choice.rank))
    return sorted(best, key=lambda id_: (best[id_], id_))


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


def read_label_file(
    path: Path,
    site: SiteSettings,
    worklists: Worklists,
    labels: Sequence[str],
    known: Sequence[Label],
) -> tuple[list[Label], int]:
    """Read and check a file of labels; nothing is written.

    Args:
        path: A table with the columns of labels.csv, in any order, and maybe `image`.
        site: Whose images they are.
        worklists: What was selected there.
        labels: The study's.
        known: What the site has of labels already.

    Returns:
        The labels, and the number of lines whose label is empty: not annotated yet, so passed over.

    Raises:
        InputError: With every problem of the file: no such columns, an image that nobody selected
            or whose file is another now, a label outside the study's, no reader, no time in ISO
            8601, or a second word of one reader on one image at one time.
    """
    lines = _lines(path)
    checker = _Checker(site, worklists, labels, known)
    problems: list[str] = []
    found: list[Label] = []
    unlabelled = 0
    for number, line in lines:
        if not line["label"]:
            unlabelled += 1
            continue
        said = list(checker.problems(line))
        problems += [f"{path}: row {number}: {text}" for text in said]
        if not said:
            found.append(checker.take(line))
    if problems:
        raise InputError(problems)
    return found, unlabelled


class _Checker:
    """What one line is held to."""

    def __init__(
        self,
        site: SiteSettings,
        worklists: Worklists,
        labels: Sequence[str],
        known: Sequence[Label],
    ) -> None:
        self.site = site
        self.labels = labels
        self.wanted = set(wanted_images(worklists))
        self.files = image_files(site)
        self.digests = Digests(site.cache)
        self.said = {(x.id, x.reader, x.time): x.label for x in known}

    def problems(self, line: Mapping[str, str]) -> list[str]:
        """Everything that is wrong with a line."""
        id_, label, said = line["id"], line["label"], []
        if label not in self.labels:
            said.append(f"the label {label!r} is none of {', '.join(self.labels)}")
        if not line["reader"]:
            said.append("names no reader")
        said += self._image_problems(id_, line["image_sha256"].lower())
        try:
            time = utc(line["time"])
        except (ValueError, OverflowError):
            said.append(f"the time {line['time']!r} is not ISO 8601, such as 2027-03-01T09:30:00Z")
            return said
        other = self.said.get((id_, line["reader"], time), label)
        if other != label:
            said.append(
                f"{line['reader']} has said {other!r} of {id_!r} at that very time; a change of "
                "mind needs a later time"
            )
        return said

    def _image_problems(self, id_: str, digest: str) -> list[str]:
        if id_ not in self.wanted:
            return [f"nobody selected the image {id_!r}"]
        if id_ not in self.files:
            return [f"the manifest no longer names the image {id_!r}"]
        if not digest:
            return [f"the image {id_!r} comes without its image_sha256"]
        if digest != self.digests.of(self.files[id_]):
            return [
                f"the image {id_!r} is not the one that was annotated: "
                f"{self.files[id_]} has another SHA-256"
            ]
        return []

    def take(self, line: Mapping[str, str]) -> Label:
        """A sound line as labels.csv keeps it."""
        label = Label(
            line["id"], line["label"], line["reader"], utc(line["time"]),
            line["image_sha256"].lower(),
        )  # fmt: skip
        self.said[label.id, label.reader, label.time] = label.label
        return label


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
    allowed = (*LABEL_COLUMNS, IMAGE)
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
