"""What the desk shows: the list, how the readers stand on each image, the progress.

Readers read blind: what the others said is shown only of images on which they disagree, or on which
somebody has decided already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients.annotations import Choice, all_worklists, counted_labels, is_closed
from clients.asked import Asked
from clients.consensus import (
    RULES,
    Rules,
    Settled,
    outline_dice,
    read_rules,
    settled_labels,
    settled_outlines,
    words_of,
)
from clients.desk.pictures import Pictures
from clients.forms.names import wanted_images
from clients.settings import SiteSettings
from clients.words import (
    DECISIONS,
    LABELS,
    OUTLINES,
    PLAYED,
    Label,
    Outline,
    read_decisions,
    read_labels,
    read_outlines,
)
from common.errors import InputError

SHOWN = ("disputed", "decided")
"""Where all words are shown."""


class AbsentError(LookupError):
    """There is no such image on the list, or no such word."""


@dataclass(frozen=True)
class Wanted:
    """One image of the list.

    Attributes:
        id: As the manifest names it.
        rank: Its best on any worklist.
        choice: Of that worklist.
        lists: Arm and budget of every worklist that it is on.
    """

    id: str
    rank: int
    choice: Choice
    lists: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Now:
    """All that is said at the site, read at one moment."""

    labels: Mapping[str, Mapping[str, Label]]
    outlines: Mapping[str, Mapping[str, Outline]]
    label_states: Mapping[str, Settled]
    outline_states: Mapping[str, Settled]


class Board:
    """The images that a study selected at a site, and how its readers stand on them.

    Args:
        site: The site.
        asked: What the study asks.

    Raises:
        InputError: If nothing is selected, or the manifest lacks a selected image.
    """

    def __init__(self, site: SiteSettings, asked: Asked) -> None:
        self.site, self.asked = site, asked
        self.pictures = Pictures(site)
        self.skipped: set[tuple[str, str]] = set()
        self._read: tuple[object, Now] | None = None
        self.wanted: list[Wanted] = []
        self.reload()

    def reload(self) -> None:
        """Read the worklists; what is on the list keeps its place, which open pages know it by."""
        lists = all_worklists(self.site.folder)
        if not lists:
            raise InputError(
                f"{self.site.name}: has selected no image yet, so there is nothing to annotate"
            )
        lost = [id_ for id_ in wanted_images(lists) if id_ not in self.pictures.rows]
        if lost:
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise InputError(
                f"{self.site.data_folder}: no longer names the image {lost[0]!r}{more}"
            )
        found = {wanted.id: wanted for wanted in _wanted(lists)}
        before = [found.pop(wanted.id, wanted) for wanted in self.wanted]
        self.wanted = [*before, *found.values()]

    @property
    def rules(self) -> Rules:
        """The site's, as they are now."""
        return read_rules(self.site.folder)

    def wanted_id(self, n: int) -> str:
        """The image at a place of the list.

        Raises:
            AbsentError: If there is none.
        """
        return self.at(n).id

    def at(self, n: int) -> Wanted:
        """The image at a place of the list; raises as `wanted_id`."""
        if not 0 <= n < len(self.wanted):
            raise AbsentError
        return self.wanted[n]

    def now(self) -> Now:
        """All that is said; read again only after one of the tables was replaced."""
        files = [self.site.folder / name for name in (LABELS, OUTLINES, DECISIONS, RULES)]
        stats = [path.stat() if path.exists() else None for path in files]
        version = tuple((s.st_ino, s.st_mtime_ns, s.st_size) if s else None for s in stats)
        if self._read is None or self._read[0] != version:
            self._read = version, self._said()
        return self._read[1]

    def _said(self) -> Now:
        folder, rules = self.site.folder, self.rules
        labels, outlines = words_of(read_labels(folder)), words_of(read_outlines(folder))
        decisions = read_decisions(folder)
        return Now(
            labels,
            outlines,
            settled_labels(labels, decisions, rules),
            settled_outlines(folder, outlines, decisions, rules),
        )

    def is_open(self, id_: str, now: Now) -> bool:
        """Whether all words of an image are shown."""
        states = (now.label_states, now.outline_states)
        return any(of.get(id_, Settled("open")).state in SHOWN for of in states)

    def item(self, n: int, reader: str, now: Now) -> dict[str, Any]:
        """An image as the list has it, for a reader."""
        wanted = self.wanted[n]
        mine = now.labels.get(wanted.id, {}).get(reader)
        outlined = reader in now.outlines.get(wanted.id, {})
        label = now.label_states.get(wanted.id, Settled("open"))
        outline = now.outline_states.get(wanted.id, Settled("open"))
        return {
            "n": n,
            "id": wanted.id,
            "rank": wanted.rank,
            "reason": wanted.choice.reason,
            "lists": wanted.lists,
            "mine": mine.label if mine else "",
            "outlined": outlined,
            "done": mine is not None and (outlined or not self.asked.outlines),
            "skipped": (reader, wanted.id) in self.skipped,
            "label_state": label.state,
            "outline_state": outline.state,
        }

    def progress(self, reader: str, now: Now) -> dict[str, int]:
        """How far this reader is, and the site."""
        items = [self.item(n, reader, now) for n in range(len(self.wanted))]
        counted = self._counted(now)
        return {
            "all": len(items),
            "mine": sum(item["done"] for item in items),
            "skipped": sum(item["skipped"] for item in items),
            "counted": sum(wanted.id in counted for wanted in self.wanted),
            "disputed": sum(
                "disputed" in (item["label_state"], item["outline_state"]) for item in items
            ),
        }

    def _counted(self, now: Now) -> set[str]:
        """Images that count, as `counted_labels` has them, without reading the tables again."""
        if is_closed(self.site.folder):
            return set(counted_labels(self.site.folder))
        outlined = {id_ for id_, image in now.outline_states.items() if image.word}
        found = {id_ for id_, image in now.label_states.items() if image.word}
        return found & outlined if self.rules.outlines else found

    def words(self, n: int) -> dict[str, Any]:
        """What all readers said of an image on which they disagree.

        Raises:
            AbsentError: If they do not; readers read blind.
        """
        wanted, now = self.at(n), self.now()
        if not self.is_open(wanted.id, now):
            raise AbsentError
        outlines = now.outlines.get(wanted.id, {})
        chosen = now.outline_states.get(wanted.id, Settled("open")).word
        readers = list(outlines)
        return {
            "labels": [
                {"reader": reader, "label": line.label, "time": line.time}
                for reader, line in now.labels.get(wanted.id, {}).items()
                if reader != PLAYED
            ],
            "label": now.label_states.get(wanted.id, Settled("open")).word,
            "outlines": [
                {"reader": reader, "time": line.time, "counts": line.outline == chosen}
                for reader, line in outlines.items()
            ],
            "dice": [
                {
                    "readers": [a, b],
                    "dice": round(
                        outline_dice(self.site.folder, outlines[a].outline, outlines[b].outline), 3,
                    ),
                }
                for place, a in enumerate(readers)
                for b in readers[place + 1 :]
            ],
        }  # fmt: skip


def _wanted(lists: Mapping[tuple[str, str], Sequence[Choice]]) -> list[Wanted]:
    """Each image once, the most wanted first, with the reason of its best rank."""
    best: dict[str, Choice] = {}
    on: dict[str, list[tuple[str, str]]] = {}
    for name, choices in lists.items():
        for choice in choices:
            on.setdefault(choice.id, []).append(name)
            if choice.id not in best or choice.rank < best[choice.id].rank:
                best[choice.id] = choice
    return [Wanted(id_, best[id_].rank, best[id_], tuple(on[id_])) for id_ in wanted_images(lists)]
