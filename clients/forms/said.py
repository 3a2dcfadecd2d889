"""What comes back from other tools: held to the site's images before any of it is believed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.annotations import Choice
from clients.asked import Asked
from clients.consensus import words_of
from clients.data.cache import Digests
from clients.data.manifest import Row, read_manifest
from clients.data.readers import load_reader, picture_size
from clients.forms.names import wanted_images
from clients.settings import SiteSettings
from clients.words import Label, Outline, mask_file, utc
from common.errors import InputError

Worklists = Mapping[tuple[str, str], Sequence[Choice]]
SKEW = timedelta(days=1)
"""So far ahead another machine's clock may be, or a time without an offset."""
FOREGROUND = "outline"
"""What another tool calls the one class of a binary outline."""


@dataclass(frozen=True)
class Said:
    """What one reader said of one image, as a file has it.

    Attributes:
        where: In the file, for messages.
        id: The image.
        label: Empty: none was given.
        reader: Who.
        time: When, as the file has it.
        image_sha256: Of the image as the reader saw it.
        mask: (H, W) class numbers, or None.
        dated: Whether the time is the word's own; else a word that stands already is not said anew.
    """

    where: str
    id: str
    label: str
    reader: str
    time: str
    image_sha256: str
    mask: NDArray[Any] | None = None
    dated: bool = True


@dataclass(frozen=True)
class Believed:
    """What passed.

    Attributes:
        labels: To be added.
        outlines: To be added.
        masks: SHA-256 to the bytes of each mask that they name.
        known: How many words stood already.
    """

    labels: list[Label]
    outlines: list[Outline]
    masks: dict[str, bytes]
    known: int = 0


class Checker:
    """What a word is held to.

    Args:
        site: Whose images they are.
        worklists: What was selected there.
        labels: The study's.
        known: What the site has of labels already.

    Raises:
        InputError: If the manifest is not sound.
    """

    def __init__(
        self,
        site: SiteSettings,
        worklists: Worklists,
        labels: Sequence[str],
        known: Sequence[Label],
    ) -> None:
        self.labels = labels
        self.wanted = set(wanted_images(worklists))
        self.rows: dict[str, Row] = {
            row.id: row for row in read_manifest(site.data_folder, site.data)
        }
        self.digests = Digests(site.cache)
        self.said = {(x.id, x.reader, x.time): x.label for x in known}
        self.latest = datetime.now(UTC) + SKEW
        self._reader = load_reader(site.data.reader)

    def problems(self, said: Said, classes: int = 0) -> list[str]:
        """Everything that is wrong with a word.

        Args:
            said: The word.
            classes: Of an outline; 0 for a binary one.
        """
        id_, label, found = said.id, said.label, []
        if label and label not in self.labels:
            found.append(f"the label {label!r} is none of {', '.join(self.labels)}")
        if not said.reader:
            found.append("names no reader")
        image = self._image_problems(id_, said.image_sha256.lower())
        found += image
        if said.mask is not None and not image:
            found += self._mask_problems(said, classes)
        try:
            time = utc(said.time)
        except (ValueError, OverflowError):
            found.append(f"the time {said.time!r} is not ISO 8601, such as 2026-03-01T09:30:00Z")
            return found
        if datetime.fromisoformat(time) > self.latest:
            # It would count as the reader's last word for as long as nobody says a later one.
            found.append(f"the time {said.time!r} is in the future")
        other = self.said.get((id_, said.reader, time), label)
        if label and other != label:
            found.append(
                f"{said.reader} has said {other!r} of {id_!r} at that very time; a change of "
                "mind needs a later time"
            )
        return found

    def _image_problems(self, id_: str, digest: str) -> list[str]:
        if id_ not in self.wanted:
            return [f"nobody selected the image {id_!r}"]
        if id_ not in self.rows:
            return [f"the manifest no longer names the image {id_!r}"]
        if not digest:
            return [f"the image {id_!r} comes without its image_sha256"]
        if digest != self.digests.of(self.rows[id_].image):
            return [
                f"the image {id_!r} is not the one that was annotated: "
                f"{self.rows[id_].image} has another SHA-256"
            ]
        return []

    def _mask_problems(self, said: Said, classes: int) -> list[str]:
        assert said.mask is not None
        row = self.rows[said.id]
        size = picture_size(self._reader, row.image, row.frame)
        if said.mask.shape != size:
            height, width = said.mask.shape
            return [f"the outline is {width} x {height} pixels, its image {size[1]} x {size[0]}"]
        if said.mask.max() > max(classes, 1):
            return [f"the outline holds the value {said.mask.max()}; there is no such class"]
        return []

    def take(self, said: Said) -> Label:
        """A sound label as labels.csv keeps it."""
        label = Label(said.id, said.label, said.reader, utc(said.time), said.image_sha256.lower())
        self.said[label.id, label.reader, label.time] = label.label
        return label


def believe(
    words: Iterable[Said],
    checker: Checker,
    asked: Asked,
    known: Sequence[Label],
    outlines: Sequence[Outline],
) -> Believed:
    """Check all that a file says; nothing is written.

    Args:
        words: The file's.
        checker: Of the site.
        asked: What the study asks.
        known: The site's labels.
        outlines: The site's outlines.

    Raises:
        InputError: With every problem of the file.
    """
    standing, drawn = words_of(known), words_of(outlines)
    every = set(known)
    problems: list[str] = []
    found = Believed([], [], {})
    count = 0
    for said in words:
        wrong = checker.problems(said, len(asked.classes))
        problems += [f"{said.where}: {text}" for text in wrong]
        if wrong:
            continue
        if said.label:
            label = checker.take(said)
            now = standing.get(said.id, {}).get(said.reader)
            same = now is not None and now.label == said.label and not said.dated
            if label in every or same:
                count += 1
            else:
                found.labels.append(label)
        if said.mask is not None:
            digest, content = mask_file(said.mask.astype(np.uint8), len(asked.classes))
            line = Outline(said.id, digest, said.reader, utc(said.time), said.image_sha256.lower())
            before = drawn.get(said.id, {}).get(said.reader)
            if before is not None and before.outline == digest:
                count += 1
            else:
                found.outlines.append(line)
                found.masks[digest] = content
    if problems:
        raise InputError(problems)
    return Believed(found.labels, found.outlines, found.masks, count)
