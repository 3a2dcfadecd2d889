"""A gate's ledger: what its lines say of instructions, replies and refusals (docs/ledger.md)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clients.gate.facts import InstructionFacts, ReplyFacts
from clients.gate.policy import Policy
from common.ledger import Ledger
from common.ledger_check import files_of, read
from common.ledger_format import Event, Line, read_line
from common.signing import make_key, read_key
from common.wire.digest import told

LEDGER_FILE, KEY_FILE = "ledger.jsonl", "ledger.key"
RECEIPT = frozenset({"kind", "key", "site", "sequence", "head", "digest", "bytes"})
"""Fields of a receipt (docs/ledger.md)."""
LONGEST_RECEIPT = 4096
MOST_WORDS = 20
"""Reasons that a refusal's line holds; a hostile reply could have very many."""


class Book:
    """The site's ledger, opened to write. Without a key one is made.

    Args:
        folder: Where ledger and key lie.
        site: The site's name.
        mode: "simulation" or "gate": what writes it.
        wait_s: Seconds to wait for another writer.

    Raises:
        LedgerError: If it cannot be opened or was changed.
    """

    def __init__(self, folder: Path, site: str, mode: str, wait_s: float = 0.0) -> None:
        key_path = folder / KEY_FILE
        key = read_key(key_path) if key_path.exists() else make_key(key_path)
        about = {"site": site, "mode": mode}
        self._open = partial(Ledger, folder / LEDGER_FILE, key, about, wait_s=wait_s)
        self.ledger = self._open()
        self.is_new = self.ledger.last is not None and self.ledger.last.sequence == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ledger.close()

    def _append(self, event: Event) -> Line:
        """Write a line; where a disk was full and left half of one, open the ledger anew first."""
        if self.ledger.is_broken:
            self.ledger.close()
            self.ledger = self._open()
        return self.ledger.append(event)

    def letter(self, line: Line) -> Mapping[str, str | int]:
        """What goes beside a reply: the ledger's key, and where it stands."""
        key = self.ledger.public.hex()
        return {"key": key, "sequence": line.sequence, "head": line.hash}

    def policy_in_force(self) -> str:
        """Digest of the policy that the ledger named last; empty where it has named none."""
        told = [line.event for line in read(self.ledger.path) if line.event["kind"] == "policy"]
        return str(told[-1]["digest"]) if told else ""

    def policy(self, policy: Policy) -> None:
        """Which policy is in force from here on."""
        manifests = {name: entry.sha256 for name, entry in policy.file.studies.items()}
        event = {"kind": "policy", "digest": policy.file.digest, "manifests": manifests}
        self._append(event)

    def network(self, *, is_open: bool, uid: int) -> None:
        """In which network training runs from here on, and as which user; said where it is new.

        Args:
            is_open: In the machine's own: the gate is not its only door.
            uid: The user's number.
        """
        event: Event = {"kind": "network", "open": int(is_open), "uid": uid}
        last = self.find(["network"])
        if last is None or {key: last.event.get(key) for key in event} != event:
            self._append(event)

    def instruction(self, asked: InstructionFacts, id_: str = "") -> Line:
        """An instruction came in.

        Args:
            asked: What it asks.
            id_: Flower's id of the message; empty in a simulation.
        """
        weights = {"tensors": len(asked.tensors), "bytes": asked.bytes, "digest": asked.digest}
        event = {"kind": "instruction", **about(asked), "bundle": asked.bundle, **weights}
        return self._append(event | ({"id": id_} if id_ else {}))

    def receipt(self, line: str) -> None:
        """The server confirmed a reply; `receipt_problem` found nothing wrong with it."""
        self._append({"kind": "receipt", "line": line})

    def receipt_problem(self, raw: str) -> str:
        """Why a receipt is none for a line of this ledger; empty where it is one.

        What is written down must stand up to `audit verify`: a server that could put any words
        here could make the ledger unsound for ever.
        """
        try:
            event = read_line(raw.encode("ascii"), None).event
        except ValueError:
            return "the server's receipt is none"
        if len(raw) > LONGEST_RECEIPT or set(event) != RECEIPT or event["kind"] != "receipt":
            return "the server's receipt is none"
        if event["key"] != self.ledger.public.hex():
            return "the server's receipt is for another ledger"
        sequence = event["sequence"]
        line = self._line(sequence) if type(sequence) is int else None
        said = (event["head"], event["digest"], event["bytes"])
        if line is None or line.event["kind"] != "reply" or said != (
            line.hash, line.event["digest"], line.event["bytes"]
        ):  # fmt: skip
            return f"the server's receipt for line {sequence!r:.20} says something else"
        return ""

    def _line(self, sequence: int) -> Line | None:
        """A line by its number, looked for from the end, where it mostly is."""
        for path in reversed(files_of(self.ledger.path)):
            for raw in reversed(path.read_bytes().splitlines()):
                line = read_line(raw, None)
                if line.sequence <= sequence:
                    return line if line.sequence == sequence else None
        return None

    def reply(self, asked: InstructionFacts, facts: ReplyFacts, answers: int) -> Line:
        """A reply (or a site's code) is let out; it may leave when this has returned."""
        if facts.error:
            code = {"code": facts.error, "instruction": answers}
            return self._append({"kind": "error", **about(asked), **code})
        return self._append(
            {
                "kind": "reply",
                **about(asked),
                "instruction": answers,
                "tensors": len(facts.tensors),
                "metrics": told(facts.metrics),
                "bytes": facts.bytes,
                "digest": facts.digest,
            }
        )

    def refused(
        self,
        way: str,
        code: int,
        why: Sequence[str],
        asked: InstructionFacts | None = None,
        id_: str = "",
    ) -> Line:
        """Something is not let in or out.

        Args:
            way: "in" or "out".
            code: Of `common.wire.gate.GATE_ERRORS`.
            why: Each reason; they stay here.
            asked: The instruction, where it could be read.
            id_: Flower's id of the instruction; empty in a simulation.
        """
        words = [reason[:500] for reason in why[:MOST_WORDS]]
        event: dict[str, Any] = {"kind": "refused", "way": way, "code": code, "why": words}
        event |= about(asked) if asked else {}
        return self._append(event | ({"id": id_} if id_ else {}))

    def undelivered(self, asked: int, why: str) -> Line:
        """The server did not take the answer to an instruction, and never will."""
        return self._append({"kind": "undelivered", "instruction": asked, "why": why[:500]})

    def find(self, kinds: Sequence[str], **told: int | str) -> Line | None:
        """The last line of some kinds that says this; None where there is none."""
        found = None
        for line in read(self.ledger.path):
            if line.event["kind"] in kinds and told.items() <= dict(line.event).items():
                found = line
        return found

    def sent_today(self) -> int:
        """Bytes that the ledger let out today (UTC), and later: a clock set back frees nothing."""
        assert self.ledger.last is not None
        today = self.ledger.clock().strftime("%Y-%m-%d")
        return sum(
            int(line.event["bytes"])
            for line in read(self.ledger.path)
            if line.event["kind"] == "reply" and line.time[:10] >= today
        )


def about(asked: InstructionFacts) -> dict[str, str | int]:
    """Which message of which study."""
    return {
        "study": str(asked.study.get("name", ""))[:100],
        "study_digest": asked.study_digest,
        "message": asked.message[:100],
        "training": asked.training[:200],
        "step": asked.step[:100],
        "round": min(abs(asked.round), 2**53 - 1),
    }
