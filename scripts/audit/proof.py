"""What an audit found, as data: the page and the JSON are made of this, and nothing else."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from scripts.audit.capture import Account
from scripts.audit.connections import Connection
from scripts.audit.controls import Controls
from scripts.audit.reconcile import SiteAccount
from scripts.audit.search import Found

FORMAT = "sonofed-audit-1"
State = Literal["holds", "FAILED", "skipped"]

LIMITS = (
    ("pixels in valid weights", "Code that was approved can write pixels into small, valid float "
     "weights; no check of form sees that (the trick below passes the gate). In clear the search "
     "finds such a copy; encrypted or spread over many numbers it would not."),
    ("what weights tell", "The search is for copies. That an image was trained on, or parts of "
     "what it shows, may be worked out from honest weights; no search can rule that out."),
    ("sizes, times, codes", "When a message leaves, how large it is, and the number of a refusal "
     "are visible to the server."),
    ("low digits", "A scalar that is allowed has 64 bits; its last digits are free to a dishonest "
     "sender, within its range."),
    ("other machines", "This ran here, with this installation. Another machine shows it by running "
     "it there; at a hospital, sonofed site check --egress tries that hospital's own gate."),
)  # fmt: skip
"""What cannot be proven so, and is said on every page."""


@dataclass(frozen=True)
class Check:
    """One claim, and whether it held.

    Attributes:
        name: In one word or two.
        claim: What is claimed.
        state: Whether it held.
        words: What was seen, or why it was not looked at.
    """

    name: str
    claim: str
    state: State
    words: str


@dataclass
class Proof:
    """Everything that an audit found.

    Attributes:
        quick: The short one.
        began: UTC.
        checks: In the order in which they were made.
        seconds: By part.
        study: Name, sites, messages, and whether SuperNodes had an empty network.
        canaries: How many of each sort.
        up: The search in all that left.
        down: The search in all that came.
        account: Of the recording, up.
        sites: Ledgers against the wire.
        connections: What any process tried, with the names of known ports.
        controls: Tricks.
        gate: What the tricked gate's process connected to.
    """

    quick: bool
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    checks: list[Check] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    canaries: dict[str, int] = field(default_factory=dict)
    up: Found | None = None
    down: Found | None = None
    account: Account | None = None
    sites: list[SiteAccount] = field(default_factory=list)
    connections: list[tuple[Connection, str]] = field(default_factory=list)
    controls: Controls | None = None
    gate: list[Connection] = field(default_factory=list)
    limits: tuple[tuple[str, str], ...] = LIMITS

    @property
    def passed(self) -> bool:
        """Whether nothing failed. What was skipped proves nothing, and fails nothing."""
        return all(check.state != "FAILED" for check in self.checks)

    @property
    def skipped(self) -> list[Check]:
        """What this machine could not do."""
        return [check for check in self.checks if check.state == "skipped"]

    def check(self, name: str, claim: str, holds: bool, words: str) -> Check:
        """Note a claim that was looked at."""
        made = Check(name, claim, "holds" if holds else "FAILED", words)
        self.checks.append(made)
        return made

    def skip(self, name: str, claim: str, why: str) -> Check:
        """Note a claim that could not be looked at, by name."""
        made = Check(name, claim, "skipped", why)
        self.checks.append(made)
        return made

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure a part."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = round(time.monotonic() - began, 1)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "format": FORMAT,
            "passed": self.passed,
            "machine": {
                "system": platform.system(),
                "release": platform.release(),
                "python": platform.python_version(),
                "processors": os.cpu_count(),
            },
            **asdict(self),
        }

    def write(self, path: Path) -> None:
        """Write it in one move."""
        beside = path.with_name(path.name + ".new")
        text = json.dumps(self.as_json(), indent=1)
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)
