"""What the desk knows and does, without a word of HTTP: the list, the words, the decisions.

Readers read blind: what the others said is shown only of images on which they disagree, or on which
somebody has decided already.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from clients.desk.door import Session
from clients.desk.pictures import Pictures
from clients.forms.names import wanted_images
from clients.settings import SiteSettings
from clients.words import (
    DECISIONS,
    LABELS,
    OUTLINES,
    PLAYED,
    Decision,
    Label,
    Outline,
    add_decision,
    add_labels,
    add_outlines,
    mask_file,
    now_after,
    read_decisions,
    read_labels,
    read_mask_of,
    read_outlines,
)
from common.errors import InputError

NAME = re.compile(r"[^\x00-\x1f,\"]{1,60}")
"""A reader's name: no control character, nothing that a table would have to quote."""
SHOWN = ("disputed", "decided")
"""Where all words are shown."""


class AbsentError(LookupError):
    """There is no such image on the list, or no such word."""


class ConflictError(RuntimeError):
    """The image's file is another than the one that the page shows."""


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


class Desk:
    """The images that a study selected at a site, and what readers say of them.

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
        """Read the worklists."""
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
        self.wanted = _wanted(lists)

    @property
    def rules(self) -> Rules:
        """The site's, as they are now."""
        return read_rules(self.site.folder)

    def overview(self, session: Session) -> dict[str, Any]:
        """All that the page needs to begin with."""
        self.reload()
        now, rules = self._now(), self.rules
        known = {r for words in (*now.labels.values(), *now.outlines.values()) for r in words}
        return {
            "site": self.site.name,
            "study": self.asked.study,
            "labels": self.asked.labels,
            "classes": self.asked.classes,
            "outlines": self.asked.outlines,
            "synthetic": self.asked.synthetic,
            "closed": is_closed(self.site.folder),
            "needed": rules.readers,
            "readers": sorted(known - {PLAYED}),
            "reader": session.reader,
            "images": [self._item(n, session.reader, now) for n in range(len(self.wanted))],
            "progress": self._progress(session.reader, now),
        }

    def enter(self, session: Session, name: str) -> None:
        """Name the reader.

        Raises:
            InputError: If that is no name.
        """
        name = " ".join(name.split())
        if not NAME.fullmatch(name) or name == PLAYED:
            raise InputError(
                "a reader's name has 1 to 60 characters, no comma, and no quotation mark"
            )
        session.reader = name
        session.done.clear()

    def image(self, session: Session, n: int) -> dict[str, Any]:
        """One image, and what this reader said of it."""
        wanted, reader = self._at(n), session.reader
        sequence = self.pictures.sequence(wanted.id)
        height, width = self.pictures.size(wanted.id)
        now = self._now()
        mine = now.labels.get(wanted.id, {}).get(reader)
        return {
            **self._item(n, reader, now),
            "uncertainty": wanted.choice.uncertainty,
            "distance": wanted.choice.distance,
            "image_sha256": self.pictures.digest(wanted.id),
            "height": height,
            "width": width,
            "sequence": {"kind": sequence.kind, "names": sequence.names, "at": sequence.at},
            "time": mine.time if mine else "",
        }

    def label(self, session: Session, n: int, label: str, digest: str) -> dict[str, Any]:
        """Say what an image is; an empty label takes back what was said.

        Raises:
            AbsentError: If there is no such image or label.
            ConflictError: If the image's file has changed since it was shown.
            InputError: If nobody has said who reads.
        """
        wanted, reader = self._at(n), _named(session)
        if label and label not in self.asked.labels:
            raise AbsentError
        self._check_digest(wanted.id, digest)
        before = self._now().labels.get(wanted.id, {}).get(reader)
        self._say_label(wanted.id, label, reader, digest)
        session.done.append((wanted.id, "label", before.label if before else ""))
        self.skipped.discard((reader, wanted.id))
        return self._answer(session, n)

    def outline(
        self, session: Session, n: int, mask_HW: NDArray[np.uint8] | None, digest: str
    ) -> dict[str, Any]:
        """Keep an outline; None takes it back. Raises as `label` does."""
        wanted, reader = self._at(n), _named(session)
        self._check_digest(wanted.id, digest)
        earlier = [x for x in read_outlines(self.site.folder) if x.id == wanted.id]
        name, masks = "", {}
        if mask_HW is not None:
            name, content = mask_file(mask_HW, len(self.asked.classes))
            masks[name] = content
        line = Outline(wanted.id, name, reader, now_after(earlier), digest)
        add_outlines(self.site.folder, [line], masks)
        return self._answer(session, n)

    def mask(self, session: Session, n: int, reader: str = "") -> NDArray[np.uint8] | None:
        """An outline of this reader's; of another's where all words are shown.

        Raises:
            AbsentError: If it is not to be shown.
        """
        wanted, now = self._at(n), self._now()
        if reader and reader != session.reader and not self._open(wanted.id, now):
            raise AbsentError
        line = now.outlines.get(wanted.id, {}).get(reader or session.reader)
        if line is None:
            return None
        return read_mask_of(self.site.folder, line.outline, len(self.asked.classes))

    def skip(self, session: Session, n: int, skipped: bool) -> dict[str, Any]:
        """Put an image off, or no longer; it stays on the list."""
        wanted, reader = self._at(n), _named(session)
        if skipped:
            self.skipped.add((reader, wanted.id))
            session.done.append((wanted.id, "skip", ""))
        else:
            self.skipped.discard((reader, wanted.id))
        return self._answer(session, n)

    def words(self, n: int) -> dict[str, Any]:
        """What all readers said of an image on which they disagree.

        Raises:
            AbsentError: If they do not; readers read blind.
        """
        wanted, now = self._at(n), self._now()
        if not self._open(wanted.id, now):
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

    def decide(self, session: Session, n: int, what: str, word: str, digest: str) -> dict[str, Any]:
        """Decide an image on which the readers disagree.

        Args:
            session: Of who decides.
            n: The image.
            what: "label" or "outline".
            word: A label, or the reader whose outline counts.
            digest: Of the image as it was shown.

        Raises:
            AbsentError: If there is nothing to decide, or no such word.
            ConflictError: If the image's file has changed since it was shown.
            InputError: If nobody has said who reads.
        """
        wanted, reader, now = self._at(n), _named(session), self._now()
        states = {"label": now.label_states, "outline": now.outline_states}
        if what not in states:
            raise AbsentError
        if states[what].get(wanted.id, Settled("open")).state not in SHOWN:
            raise AbsentError
        if what == "outline":
            drawn = now.outlines.get(wanted.id, {}).get(word)
            if drawn is None:
                raise AbsentError
            word = drawn.outline
        elif word not in self.asked.labels:
            raise AbsentError
        self._check_digest(wanted.id, digest)
        state = states[what][wanted.id]
        before = state.word if state.state == "decided" else ""
        self._say_decision(wanted.id, what, word, reader, digest)
        session.done.append((wanted.id, f"decide {what}", before))
        return self._answer(session, n)

    def undo(self, session: Session) -> dict[str, Any]:
        """Take back what this reader did last; `{"n": None}` where there is nothing."""
        reader = _named(session)
        places = {wanted.id: n for n, wanted in enumerate(self.wanted)}
        while session.done:
            id_, what, before = session.done.pop()
            if id_ not in places:
                continue
            if what == "skip":
                self.skipped.discard((reader, id_))
            elif what == "label":
                self._say_label(id_, before, reader, self.pictures.digest(id_))
            else:
                kind = what.removeprefix("decide ")
                self._say_decision(id_, kind, before, reader, self.pictures.digest(id_))
            return {"n": places[id_], "what": what, **self._answer(session, places[id_])}
        return {
            "n": None,
            "what": "",
            "item": None,
            "progress": self._progress(reader, self._now()),
        }

    def _say_label(self, id_: str, label: str, reader: str, digest: str) -> None:
        folder = self.site.folder
        earlier = [line for line in read_labels(folder) if line.id == id_]
        add_labels(folder, [Label(id_, label, reader, now_after(earlier), digest)])

    def _say_decision(self, id_: str, what: str, word: str, reader: str, digest: str) -> None:
        folder = self.site.folder
        earlier = [line for line in read_decisions(folder) if line.id == id_]
        add_decision(folder, Decision(id_, what, word, reader, now_after(earlier), digest))

    def _check_digest(self, id_: str, digest: str) -> None:
        if digest != self.pictures.digest(id_):
            raise ConflictError

    def wanted_id(self, n: int) -> str:
        """The image at a place of the list.

        Raises:
            AbsentError: If there is none.
        """
        return self._at(n).id

    def _at(self, n: int) -> Wanted:
        if not 0 <= n < len(self.wanted):
            raise AbsentError
        return self.wanted[n]

    def _now(self) -> Now:
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

    def _open(self, id_: str, now: Now) -> bool:
        states = (now.label_states, now.outline_states)
        return any(of.get(id_, Settled("open")).state in SHOWN for of in states)

    def _item(self, n: int, reader: str, now: Now) -> dict[str, Any]:
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

    def _progress(self, reader: str, now: Now) -> dict[str, int]:
        items = [self._item(n, reader, now) for n in range(len(self.wanted))]
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

    def _answer(self, session: Session, n: int) -> dict[str, Any]:
        now = self._now()
        return {
            "item": self._item(n, session.reader, now),
            "progress": self._progress(session.reader, now),
        }


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


def _named(session: Session) -> str:
    if not session.reader:
        raise InputError("say who reads first")
    return session.reader
