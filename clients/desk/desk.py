"""What readers do at the desk, without a word of HTTP: labels, outlines, decisions, undo."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.annotations import is_closed
from clients.consensus import Settled
from clients.desk.board import SHOWN, AbsentError, Board
from clients.desk.door import Session
from clients.words import (
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


class ConflictError(RuntimeError):
    """The image's file is another than the one that the page shows."""


class Desk(Board):
    """The board, and what readers do at it. Everything is saved before the call returns."""

    def overview(self, session: Session) -> dict[str, Any]:
        """All that the page needs to begin with."""
        self.reload()
        now, rules = self.now(), self.rules
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
            "images": [self.item(n, session.reader, now) for n in range(len(self.wanted))],
            "progress": self.progress(session.reader, now),
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
        wanted, reader = self.at(n), session.reader
        sequence = self.pictures.sequence(wanted.id)
        height, width = self.pictures.size(wanted.id)
        now = self.now()
        mine = now.labels.get(wanted.id, {}).get(reader)
        return {
            **self.item(n, reader, now),
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
        wanted, reader = self.at(n), _named(session)
        if label and label not in self.asked.labels:
            raise AbsentError
        self._check_digest(wanted.id, digest)
        before = self.now().labels.get(wanted.id, {}).get(reader)
        self._say_label(wanted.id, label, reader, digest)
        session.done.append((wanted.id, "label", before.label if before else ""))
        self.skipped.discard((reader, wanted.id))
        return self._answer(session, n)

    def outline(
        self, session: Session, n: int, mask_HW: NDArray[np.uint8] | None, digest: str
    ) -> dict[str, Any]:
        """Keep an outline; None takes it back. Raises as `label` does."""
        wanted, reader = self.at(n), _named(session)
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
        wanted, now = self.at(n), self.now()
        if reader and reader != session.reader and not self.is_open(wanted.id, now):
            raise AbsentError
        line = now.outlines.get(wanted.id, {}).get(reader or session.reader)
        if line is None:
            return None
        return read_mask_of(self.site.folder, line.outline, len(self.asked.classes))

    def skip(self, session: Session, n: int, skipped: bool) -> dict[str, Any]:
        """Put an image off, or no longer; it stays on the list."""
        wanted, reader = self.at(n), _named(session)
        if skipped:
            self.skipped.add((reader, wanted.id))
            session.done.append((wanted.id, "skip", ""))
        else:
            self.skipped.discard((reader, wanted.id))
        return self._answer(session, n)

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
        wanted, reader, now = self.at(n), _named(session), self.now()
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
            "progress": self.progress(reader, self.now()),
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

    def _answer(self, session: Session, n: int) -> dict[str, Any]:
        now = self.now()
        return {
            "item": self.item(n, session.reader, now),
            "progress": self.progress(session.reader, now),
        }


def _named(session: Session) -> str:
    if not session.reader:
        raise InputError("say who reads first")
    return session.reader
