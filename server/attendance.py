"""Sites that leave a study while it runs, and come back: `RUN/sites.jsonl`, read between rounds.

The coordinator's commands append to it, the server only reads. The study itself never changes, nor
does its digest: a site that left is asked nothing more, and what it has contributed stays.

A site that is away without having been dropped is the server's to note (`RUN/state/away.json`): the
study goes on where the others are a quorum, and asks it again before every round.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import InputError
from common.lines import append_line
from common.plan import Plan
from server.checkpoint import Record, RunFolder

FILE = "sites.jsonl"
AWAY = "away"
"""State: what the server noted of sites that were not there, oldest first."""
Said = Literal["dropped", "added", "away", "back"]


class Change(BaseModel):
    """One line.

    Attributes:
        change: What happened.
        site: To whom.
        reason: Why, in the coordinator's words, or of one that is away in the server's; may be
            empty.
        time: When, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: Said
    site: str
    reason: str = ""
    time: str


def note(run: Path, change: Literal["dropped", "added"], site: str, reason: str = "") -> Change:
    """Write down that a site leaves or comes back; from the next round on it holds."""
    made = _now(change, site, reason)
    append_line(run / FILE, made.model_dump())
    return made


def note_away(run: RunFolder, change: Literal["away", "back"], site: str, reason: str = "") -> None:
    """Write down that a site is not there, or is back; what was noted last is not repeated."""
    noted = read_away(run)
    of_site = [earlier for earlier in noted if earlier.site == site]
    if of_site and (of_site[-1].change, of_site[-1].reason) == (change, reason):
        return
    noted.append(_now(change, site, reason))
    run.write_state(AWAY, [change.model_dump() for change in noted])


def read_away(run: RunFolder) -> list[Change]:
    """What the server noted, oldest first."""
    return [Change(**change) for change in run.read_state(AWAY) or []]


def was_away(run: RunFolder) -> set[str]:
    """The sites that were not there when the server last looked."""
    latest = {change.site: change.change for change in read_away(run)}
    return {site for site, change in latest.items() if change == "away"}


def missing(run: RunFolder) -> dict[str, dict[str, str]]:
    """Stages whose figures are not of all sites: site to why it gave none."""
    stages = {stage: run.read_state(stage) or {} for stage in ("evaluate", "classify")}
    return {stage: state["missing"] for stage, state in stages.items() if state.get("missing")}


def _now(change: Said, site: str, reason: str) -> Change:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return Change(change=change, site=site, reason=reason, time=time)


def read_changes(run: Path) -> list[Change]:
    """All changes, oldest first; a line that is still being written waits for the next look.

    Raises:
        InputError: If a line is none.
    """
    path = run / FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [Change.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise InputError(f"{path}: a line is none of a site's leaving ({error})") from None


def gone(changes: Iterable[Change]) -> dict[str, Change]:
    """The sites that take no part now, each with its leaving."""
    latest = {change.site: change for change in changes}
    return {site: change for site, change in latest.items() if change.change == "dropped"}


def sentences(
    changes: Sequence[Change],
    plan: Plan,
    records: Mapping[str, Record],
    evaluated: Iterable[str],
) -> list[str]:
    """What a reader must know of each site that left or was away: when, why, what it took part in.

    Args:
        changes: All of the run, oldest first.
        plan: Its trainings.
        records: By training.
        evaluated: Sites that were evaluated.
    """
    evaluated = set(evaluated)
    found = []
    for site in dict.fromkeys(change.site for change in changes):
        moves = "; ".join(_moved(change) for change in changes if change.site == site)
        parts = [
            _part(records[key].took_part.get(site, []), records[key].round, key)
            for key, training in plan.trainings.items()
            if site in training.participants
        ]
        judged = "it was evaluated" if site in evaluated else "it was not evaluated"
        found.append(f"{site}: {moves}. It took part in {_listed(parts)}; {judged}.")
    return found


def _moved(change: Change) -> str:
    why = f" ({change.reason})" if change.reason else ""
    return f"{change.change} on {change.time[:10]} at {change.time[11:16]} UTC{why}"


def _part(rounds: Sequence[int], of: int, key: str) -> str:
    if not rounds:
        return f"no round of {key}"
    if len(rounds) == of:
        return f"every round of {key}"
    word = "round" if len(rounds) == 1 else "rounds"
    return f"{word} {spans(rounds)} of {of} of {key}"


def spans(rounds: Sequence[int]) -> str:
    """`[1, 2, 3, 5]` -> `"1-3, 5"`."""
    runs: list[list[int]] = []
    for round_ in rounds:
        if runs and round_ == runs[-1][-1] + 1:
            runs[-1].append(round_)
        else:
            runs.append([round_])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _listed(parts: Sequence[str]) -> str:
    if not parts:
        return "no training"
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]
