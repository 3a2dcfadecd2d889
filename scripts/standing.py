"""How each site stands in a run: what it answered last, when, and whether and why it is waited for.

Read from the events alone, so it is the same whenever somebody begins to look.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EXPERTS = "annotate"
"""The stage that waits for people, as long as it takes them."""
ANSWERS = ("enrol", "reply", "step", "predict", "refused", "evaluate")
PASSED = ("study", "round", "evaluate", "assemble", "end")
"""Events after which nobody is waited for any longer, until it is said anew."""


@dataclass
class Standing:
    """One site.

    Attributes:
        site: Its name.
        at: The last thing that it answered, such as "mim/mim round 2/5".
        answered: When.
        waits: Why it is waited for; empty if it is not.
        since: Since when.
        gone: Where it takes no part just now: why.
    """

    site: str
    at: str = ""
    answered: datetime | None = None
    waits: str = ""
    since: datetime | None = None
    gone: str = ""


@dataclass
class Standings:
    """All sites of a run.

    Attributes:
        sites: By name. While sites enrol, who is waited for may have no name yet.
        stage: The stage that waits; empty while none does.
        worked_s: Seconds of the run that goes on, without those in which it waited for experts.
    """

    sites: dict[str, Standing] = field(default_factory=dict)
    stage: str = ""
    worked_s: float = 0.0
    _last: datetime | None = None

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]], sites: Iterable[str] = ()) -> "Standings":
        """What a run's events say, in their order."""
        found = cls({site: Standing(site) for site in sites})
        for event in events:
            found.take(event)
        return found

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in one event of metrics.jsonl."""
        kind, at = str(event["event"]), _time(event)
        if kind == "study":
            self.worked_s = 0.0
        elif at and self._last and self.stage != EXPERTS:
            self.worked_s += (at - self._last).total_seconds()
        self._last = at or self._last
        if kind == "waiting":
            self._waiting(event, at)
            return
        if kind in PASSED or self.stage == EXPERTS:
            self._clear()
        if kind == "site":
            here = event["change"] in ("added", "back")
            words = ": ".join(part for part in (str(event["change"]), event["reason"]) if part)
            one = self._site(str(event["site"]))
            one.gone, one.waits, one.since = "" if here else words, "", None
        elif kind in ANSWERS:
            one = self._site(str(event["site"]))
            one.at, one.answered, one.waits, one.since = _what(event) or one.at, at, "", None
            one.gone = ""

    @property
    def waiting(self) -> list[Standing]:
        """Those that are waited for."""
        return [one for one in self.sites.values() if one.waits]

    @property
    def since(self) -> datetime | None:
        """Since when somebody is waited for."""
        return min((one.since for one in self.waiting if one.since), default=None)

    def _waiting(self, event: Mapping[str, Any], at: datetime | None) -> None:
        told: Mapping[str, Any] = event["sites"]
        if self.stage != event["stage"]:
            self._clear()
        self.stage = str(event["stage"])
        for name, one in self.sites.items():
            if name not in told:
                one.waits, one.since = "", None
        for name, words in told.items():
            one = self._site(str(name))
            one.waits, one.since = str(words), one.since or at

    def _clear(self) -> None:
        self.stage = ""
        for one in self.sites.values():
            one.waits, one.since = "", None

    def _site(self, name: str) -> Standing:
        return self.sites.setdefault(name, Standing(name))


def when(moment: datetime | None) -> str:
    """A time as people here read it."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment is not None else ""


def _what(event: Mapping[str, Any]) -> str:
    match event["event"]:
        case "enrol":
            return "enrolled"
        case "reply":
            return f"{event['training']} round {event['round']}/{event['rounds']}"
        case "refused":
            return f"{event['training']} round {event['round']} refused"
        case "step":
            return " ".join(p for p in (event["stage"], event["key"], event["step"]) if p)
        case "predict":
            return f"evaluate {event['member']}"
    return "evaluated" if event["event"] == "evaluate" else ""


def _time(event: Mapping[str, Any]) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(event["time"]))
    except (KeyError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
