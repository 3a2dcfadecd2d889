"""What a ledger says, summed up for people: by study, stage and round.

A signed line may still lack a field, or hold another kind of value than docs/ledger.md says: then
it counts for nothing, and a remark names the line. All words are such that can be shown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.ledger_format import Line
from common.page import count, megabytes
from scripts.foreign import visible

ABOUT: Mapping[str, type] = {
    "study": str, "message": str, "training": str, "step": str, "round": int,
}  # fmt: skip
CARRIES: Mapping[str, type] = {"bytes": int, "digest": str, "tensors": int}
FIELDS: Mapping[str, Mapping[str, type]] = {
    "policy": {"digest": str},
    "instruction": {**ABOUT, **CARRIES},
    "reply": {**ABOUT, **CARRIES, "metrics": dict, "instruction": int},
    "error": {**ABOUT, "code": int, "instruction": int},
    "refused": {"way": str, "code": int, "why": list},
    "undelivered": {"instruction": int, "why": str},
    "recovered": {"fragment_bytes": int, "head_sequence": int, "lines_missing": int},
    "purged": {"what": str, "files": int, "bytes": int},
    "network": {"open": int, "uid": int},
    "checked": {"caught": int, "tricks": int, "failed": list, "skipped": list},
}
"""What is read of each kind of event (docs/ledger.md)."""
NOTHING: Mapping[type, Any] = {int: 0, str: "", dict: {}, list: []}
"""In place of a field that is not there."""
PURGED = {"study": "of a study", "patient": "of a patient", "all": "of all studies"}


@dataclass
class Row:
    """One kind of exchange.

    Attributes:
        study: The study.
        message: Category and stage.
        what: Training or member, and step.
        rounds: That it came in.
        came: Instructions, and bytes of weights in them.
        left: Replies that left and were not turned down, and bytes in them.
        not_taken: Replies that it never took, and bytes in them.
        tensors: In one reply.
        metrics: Names of scalars that left.
        codes: Error codes that left.
        refused: Messages that were not let in or out.
    """

    study: str
    message: str
    what: str
    rounds: set[int] = field(default_factory=set)
    came: int = 0
    came_bytes: int = 0
    left: int = 0
    left_bytes: int = 0
    not_taken: int = 0
    not_taken_bytes: int = 0
    tensors: int = 0
    metrics: dict[str, None] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    refused: int = 0

    @property
    def span(self) -> str:
        """Its rounds: `1`, or `1-3`."""
        low, high = min(self.rounds), max(self.rounds)
        return str(low) if low == high else f"{low}-{high}"


@dataclass
class Summary:
    """A ledger at a glance. Its lines' events have all fields in `FIELDS`.

    Attributes:
        site: Its name.
        mode: What wrote it.
        key: Public key, hex.
        first: Time of the first line.
        last: Time of the last line.
        lines: How many.
        rows: Kinds of exchange, in the order in which they first came.
        came: Each instruction: its line.
        replies: Each reply that the server did not turn down: its line.
        not_taken: Each reply that the server never took: its line. Parts of it may have left.
        refused: Each refusal: its line.
        receipts: How many replies the server confirmed in the ledger itself.
        days: Bytes that left by day (UTC).
        policies: Digests of policies that were in force.
        checks: Each time that the gate was tried (`sonofed site check --egress`): its line.
        remarks: What else happened, one sentence each, from the first line to the last.
    """

    site: str = ""
    mode: str = ""
    key: str = ""
    first: str = ""
    last: str = ""
    lines: int = 0
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    came: list[Line] = field(default_factory=list)
    replies: list[Line] = field(default_factory=list)
    not_taken: list[Line] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)
    receipts: int = 0
    days: dict[str, int] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    checks: list[Line] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def left_bytes(self) -> int:
        """All bytes that left."""
        return sum(row.left_bytes for row in self.rows.values())

    @property
    def came_bytes(self) -> int:
        """All bytes that came in."""
        return sum(row.came_bytes for row in self.rows.values())

    @property
    def not_taken_bytes(self) -> int:
        """All bytes of replies that the server never took."""
        return sum(row.not_taken_bytes for row in self.rows.values())


def summarise(lines: Iterable[Line]) -> Summary:
    """Sum up a ledger's lines; signatures are not looked at."""
    found = Summary()
    read = [_readable(line, found.remarks) for line in lines]
    never = {line.event["instruction"] for line in read if line.event["kind"] == "undelivered"}
    for line in read:
        found.lines += 1
        found.first, found.last = found.first or line.time, line.time
        event = line.event
        match event["kind"]:
            case "opened":
                found.site, found.key = str(event.get("site", "")), str(event.get("key", ""))
                found.mode = str(event.get("mode", ""))
            case "policy":
                found.policies.append(event["digest"])
            case "receipt":
                found.receipts += 1
            case "checked":
                found.checks.append(line)
            case "instruction":
                found.came.append(line)
                row = _row(found, event)
                row.came += 1
                row.came_bytes += event["bytes"]
            case "reply":
                # No instruction is line 0, which opens a ledger.
                _reply(found, line, never=event["instruction"] in never - {0})
            case "error":
                _row(found, event).codes.append(event["code"])
            case "refused":
                found.refused.append(line)
                if "message" in event:
                    _row(found, event).refused += 1
        found.remarks += _remarks(line)
    return found


def _reply(found: Summary, line: Line, *, never: bool) -> None:
    row, event = _row(found, line.event), line.event
    row.tensors = event["tensors"]
    if never:
        row.not_taken += 1
        row.not_taken_bytes += event["bytes"]
        found.not_taken.append(line)
        return
    row.left += 1
    row.left_bytes += event["bytes"]
    row.metrics |= dict.fromkeys(event["metrics"])
    day = line.time[:10]
    found.days[day] = found.days.get(day, 0) + event["bytes"]
    found.replies.append(line)


def _remarks(line: Line) -> Iterable[str]:
    event = line.event
    match event["kind"]:
        case "undelivered":
            yield (
                f"line {line.sequence}: the server never took the answer to the instruction of "
                f"line {event['instruction']}: {event['why']}"
            )
        case "recovered":
            yield f"line {line.sequence}: {_recovered(event)}"
        case "network":
            where = (
                "the machine's own network: the gate was not its only door"
                if event["open"]
                else "a network without ways out"
            )
            yield (
                f"line {line.sequence}: from here on training ran in {where}, as user number "
                f"{event['uid']}"
            )
        case "purged":
            what = PURGED.get(event["what"], event["what"])
            yield (
                f"line {line.sequence}: what was left here {what} was removed on "
                f"{line.time[:10]}: {count(event['files'], 'file')}, "
                f"{megabytes(event['bytes'])} MB"
            )


def _recovered(event: Mapping[str, Any]) -> str:
    if event["lines_missing"] > 0:
        return f"{count(event['lines_missing'], 'line')} before it had been cut off"
    if event["fragment_bytes"]:
        return (
            "the writer had been stopped in the middle of a line; what that spoke of had not left"
        )
    if event["head_sequence"] < 0:
        return "the head file had been taken away, and perhaps lines before it"
    return "the ledger was mended"


def checked(line: Line) -> str:
    """What a line on a tried gate says."""
    event = line.event
    words = f"the gate was tried on {line.time[:10]}: {event['caught']} of {event['tricks']} tricks"
    told = [f"{name} failed" for name in event["failed"]]
    told += [f"{name} was skipped" for name in event["skipped"]]
    return "; ".join([f"{words} caught", *told])


def _readable(line: Line, remarks: list[str]) -> Line:
    """The line with all fields that are read here; a remark where one is not as it should be."""
    event = _shown(line.event)
    kind = event["kind"]
    wanted = dict(FIELDS.get(kind, {}))
    if kind == "refused" and "message" in event:
        wanted |= ABOUT
    wrong = [name for name, type_ in wanted.items() if type(event.get(name)) is not type_]
    if wrong:
        remarks.append(f"line {line.sequence}: says {kind}, without {', '.join(wrong)}")
        event |= {name: NOTHING[wanted[name]] for name in wrong}
    return Line(line.raw, line.sequence, visible(line.time), line.previous, event)


def _shown(value: Any) -> Any:
    """The same with words that can be shown."""
    if isinstance(value, Mapping):
        return {visible(name): _shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return visible(value) if isinstance(value, str) else value


def _row(found: Summary, event: Mapping[str, Any]) -> Row:
    what = " ".join(part for part in (event["training"], event["step"]) if part)
    key = (event["study"], event["message"], what)
    row = found.rows.setdefault(key, Row(*key))
    row.rounds.add(event["round"])
    return row


__all__ = ["Row", "Summary", "checked", "summarise"]
