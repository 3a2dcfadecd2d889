"""How the sites of a run stand, whenever somebody begins to look."""

from typing import Any

from scripts.standing import Standings, when


def at(minute: int, event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, **fields, "time": f"2026-11-22T19:{minute:02d}:00.000+00:00"}


def reply(minute: int, site: str, round_: int) -> dict[str, Any]:
    return at(minute, "reply", training="mim/mim", round=round_, rounds=5, site=site)


def waiting(minute: int, stage: str = "annotate", **sites: str) -> dict[str, Any]:
    return at(minute, "waiting", stage=stage, sites=sites)


def test_whom_it_waits_for_and_since_when() -> None:
    found = Standings.of(
        [at(0, "study"), reply(1, "ada", 2), waiting(5, ada="3 of 9", bo="0 of 4"),
         waiting(40, ada="8 of 9")],
        ["ada", "bo", "cy"],
    )  # fmt: skip
    assert [(one.site, one.waits) for one in found.waiting] == [("ada", "8 of 9")]
    # Of the experts' week the first minute counts, not the last change.
    assert when(found.since) == when(found.sites["ada"].since)
    assert f"{found.since:%H:%M}" == "19:05"
    assert found.sites["ada"].at == "mim/mim round 2/5"
    assert f"{found.sites['ada'].answered:%H:%M}" == "19:01"
    assert found.sites["cy"].answered is None
    # Nothing could be done since: the five minutes before are its pace.
    assert found.worked_s == 300.0


def test_an_answer_ends_the_waiting() -> None:
    events = [waiting(5, "mim", ada="asked 3 min ago", bo="asked 3 min ago")]
    found = Standings.of(events)
    found.take(reply(6, "ada", 1))
    assert [one.site for one in found.waiting] == ["bo"]
    found.take(at(7, "refused", training="mim/mim", round=1, site="bo", reason="late"))
    assert not found.waiting
    assert found.sites["bo"].at == "mim/mim round 1 refused"
    # Another round's waiting is another waiting.
    found.take(waiting(20, "mim", bo="asked 1 min ago"))
    assert f"{found.since:%H:%M}" == "19:20"
    found.take(at(21, "end", status="failed", seconds=1.0))
    assert not found.waiting


def test_who_is_gone_and_back() -> None:
    found = Standings.of([waiting(1, "mim", bo="asked"), at(2, "site", site="bo", change="dropped",
                          reason="a new machine")])  # fmt: skip
    assert not found.waiting
    assert found.sites["bo"].gone == "dropped: a new machine"
    found.take(at(3, "site", site="bo", change="added", reason=""))
    assert found.sites["bo"].gone == ""


def test_events_without_a_time() -> None:
    found = Standings.of([{"event": "study"}, {"event": "waiting", "stage": "mim", "sites": {}}])
    assert found.since is None
    assert when(found.since) == ""
