"""What a ledger says, summed up for people: by study, stage and round."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from common.ledger_format import Line


@dataclass
class Row:
    """One kind of exchange.

    Attributes:
        study: The study.
        message: Category and stage.
        what: Training or member, and step.
        rounds: That it came in.
        came: Instructions, and bytes of weights in them.
        left: Replies, and bytes in them.
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
    tensors: int = 0
    metrics: dict[str, None] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    refused: int = 0


@dataclass
class Summary:
    """A ledger at a glance.

    Attributes:
        site: Its name.
        mode: What wrote it.
        key: Public key, hex.
        first: Time of the first line.
        last: Time of the last line.
        lines: How many.
        rows: Kinds of exchange, in the order in which they first came.
        replies: Each reply: its line.
        refused: Each refusal: its line.
        receipts: How many replies the server confirmed in the ledger itself.
        days: Bytes that left by day (UTC).
        policies: Digests of policies that were in force.
        checks: Each time that the gate was tried (`sonofed site check --egress`): its line.
    """

    site: str = ""
    mode: str = ""
    key: str = ""
    first: str = ""
    last: str = ""
    lines: int = 0
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    replies: list[Line] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)
    receipts: int = 0
    days: dict[str, int] = field(default_factory=dict)
    policies: list[str] = field(default_factory=list)
    checks: list[Line] = field(default_factory=list)

    @property
    def left_bytes(self) -> int:
        """All bytes that left."""
        return sum(row.left_bytes for row in self.rows.values())

    @property
    def came_bytes(self) -> int:
        """All bytes that came in."""
        return sum(row.came_bytes for row in self.rows.values())


def summarise(lines: Iterable[Line]) -> Summary:
    """Sum up a ledger's lines; signatures are not looked at."""
    found = Summary()
    for line in lines:
        found.lines += 1
        found.first, found.last = found.first or line.time, line.time
        event = line.event
        match event["kind"]:
            case "opened":
                found.site, found.key = str(event.get("site", "")), str(event.get("key", ""))
                found.mode = str(event.get("mode", ""))
            case "policy":
                found.policies.append(str(event["digest"]))
            case "receipt":
                found.receipts += 1
            case "checked":
                found.checks.append(line)
            case "instruction":
                row = _row(found, event)
                row.came += 1
                row.came_bytes += int(event["bytes"])
            case "reply":
                row = _row(found, event)
                row.left += 1
                row.left_bytes += int(event["bytes"])
                row.tensors = int(event["tensors"])
                row.metrics |= dict.fromkeys(event["metrics"])
                day = line.time[:10]
                found.days[day] = found.days.get(day, 0) + int(event["bytes"])
                found.replies.append(line)
            case "error":
                _row(found, event).codes.append(int(event["code"]))
            case "refused":
                found.refused.append(line)
                if "message" in event:
                    _row(found, event).refused += 1
    return found


def checked(line: Line) -> str:
    """What a line on a tried gate says."""
    event = line.event
    words = f"the gate was tried on {line.time[:10]}: {event['caught']} of {event['tricks']} tricks"
    told = [f"{name} failed" for name in event["failed"]]
    told += [f"{name} was skipped" for name in event["skipped"]]
    return "; ".join([f"{words} caught", *told])


def _row(found: Summary, event: Any) -> Row:
    what = " ".join(part for part in (event["training"], event["step"]) if part)
    key = (str(event["study"]), str(event["message"]), what)
    row = found.rows.setdefault(key, Row(*key))
    row.rounds.add(int(event["round"]))
    return row
