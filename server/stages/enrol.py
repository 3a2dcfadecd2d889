"""enrol: who is there, and how large; and between rounds, who still is."""

import time
from collections.abc import Iterator, Sequence

from common.wire.vocabulary import ENROL, UNITS
from server.attendance import gone, note_away, read_changes, was_away
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal, Reply, least

BACK = "`sonofed study add-site` brings one back"
GRACE_S = 60.0
"""Seconds that a run which goes on gives its sites to be there, where a quorum of them is."""
BACK_S = 600.0
"""Seconds that one which comes back may take to say who it is; the others wait for that."""
LOOK_S = 5.0
"""Seconds between two looks for sites that are waited for."""
TELL_S = 60.0
"""Seconds after which it is said again who is waited for."""
MISSING = "it did not say that it is here"


def run(context: ServerContext) -> None:
    """Ask every node who it is; every site of the study that was not dropped must be there once.

    With a quorum the study goes on without those that have not answered by the deadline; they are
    asked again before every round. A run that goes on knows its sites, and does not wait so long.

    Raises:
        StudyStopped: Naming the sites that refused or are missing, where the others are too few.
    """
    wanted = present(context, tuple(context.study.sites))
    needed = least(context.study.federation.quorum, len(wanted))
    before = was_away(context.run)
    known = all(site in before or context.run.read_state(f"enrol/{site}") for site in wanted)
    wait_s = context.study.federation.deadline_s
    if known and needed < len(wanted):
        wait_s = min(GRACE_S, wait_s)
    refusals = _ask(context, wanted, wait_s=wait_s, needed=needed)
    missing = [site for site in wanted if site not in context.enrolled]
    problems = [f"{refusal.site}: {refusal.reason}" for refusal in refusals]
    # Where nobody is missing, a node that refuses is of a site that does not take part.
    if len(wanted) - len(missing) < needed or any(refusal.kind == "taken" for refusal in refusals):
        raise StudyStopped(
            "enrol: " + "; ".join([*problems, *(f"{site}: did not enrol" for site in missing)])
        )
    for site in missing:
        context.away[site] = "; ".join([MISSING, *problems])
        context.tracker.emit("site", site=site, change="away", reason=context.away[site])
        note_away(context.run, "away", site, context.away[site])
    for site in (site for site in wanted if site in before and site not in missing):
        note_away(context.run, "back", site)


def present(context: ServerContext, sites: Sequence[str]) -> tuple[str, ...]:
    """Those of the sites that take part now, looked up anew; every round and step begins so.

    A site that came back is enrolled first, if it was not; where it cannot be, it takes no part
    yet, and the next round asks it again. One that is away takes part: it counts as one that gives
    no answer, unless it has come back meanwhile.

    Raises:
        StudyStopped: If no target or no source is left.
    """
    study = context.study
    now = gone(read_changes(context.run.folder))
    for site, change in now.items():
        context.away.pop(site, None)
        if site not in context.gone:
            context.gone[site] = ""
            context.tracker.emit("site", site=site, change="dropped", reason=change.reason)
    _take_back(context, [site for site in context.gone if site not in now])
    for role, of_role in (("target", study.targets), ("source", study.sources)):
        if of_role and all(site in context.gone for site in of_role):
            raise StudyStopped(
                f"every {role} of the study was dropped ({', '.join(of_role)}); {BACK}"
            )
    return tuple(site for site in sites if site not in context.gone)


def ask(
    context: ServerContext, question: Question, sites: Sequence[str]
) -> Iterator[Reply | Refusal]:
    """Ask sites; of those that are away, as many are waited for as the question cannot spare.

    Where they have not come by the deadline, nobody is asked: the others' work would be in vain.
    """
    deadline_s = question.deadline_s or context.study.federation.deadline_s
    since = time.monotonic()
    told = since - TELL_S
    while len(missing := [site for site in sites if site in context.away]) > question.spare:
        waited = time.monotonic() - since
        if waited > deadline_s:
            yield from (Refusal(site, context.away[site], kind="silent") for site in missing)
            return
        if since + waited - told >= TELL_S:
            told = since + waited
            left = f"is not here; it has {(deadline_s - waited) / 3600:.1f} h left"
            context.tracker.emit(
                "waiting", stage=question.stage, sites=dict.fromkeys(missing, left)
            )
        time.sleep(min(LOOK_S, deadline_s))
        _take_back(context, [])
    yield from context.exchange.ask(question, sites)


def here(
    context: ServerContext, stage: str, left: Sequence[str], sites: Sequence[str]
) -> tuple[str, ...]:
    """Those that can be reached now, if no more are lacking than a quorum can spare; else all.

    For a stage that needs one fixed set of sites from its first question on. Who is left out of it
    is said; without a quorum all are waited for.

    Args:
        context: The run.
        stage: Which.
        left: Sites that it still has to ask.
        sites: All that it has, of which the quorum is taken.
    """
    found = context.exchange.connected([site for site in left if site not in context.away])
    spare = len(sites) - least(context.study.federation.quorum, len(sites))
    if len(left) - len(found) > spare:
        return tuple(left)
    for site in (site for site in left if site not in found):
        reason = f"it was not here when {stage} began, which goes on without it"
        context.tracker.emit("refused", training=stage, round=1, site=site, reason=reason)
        note_away(context.run, "away", site, reason)
    return tuple(found)


def _take_back(context: ServerContext, back: Sequence[str]) -> None:
    """Look for sites that were added, and for those that are away."""
    strangers = [site for site in back if site not in context.enrolled]
    looked_for = [*strangers, *context.away]
    refusals = _ask(context, looked_for, wait_s=0.0, needed=0) if looked_for else []
    for site in back:
        if site in context.enrolled:
            del context.gone[site]
            context.tracker.emit("site", site=site, change="added", reason="")
            continue
        words = "; ".join(["is not here yet", *(refusal.reason for refusal in refusals)])
        if context.gone[site] != words:
            context.gone[site] = words
            context.tracker.emit("waiting", stage="enrol", sites={site: words})
    for site in [site for site in context.away if site in context.enrolled]:
        del context.away[site]
        context.tracker.emit("site", site=site, change="back", reason="")
        note_away(context.run, "back", site)


def _ask(
    context: ServerContext, sites: Sequence[str], *, wait_s: float, needed: int
) -> list[Refusal]:
    """Ask who is there; the nodes that gave no answer."""
    refusals = []
    # Where not all are waited for, one that is there and silent must not hold up the others.
    deadline_s = max(wait_s, min(BACK_S, context.study.federation.deadline_s))
    question = Question("query", "enrol", metrics=ENROL, deadline_s=deadline_s)
    for answer in context.exchange.enrol(question, sites, wait_s=wait_s, least=needed):
        if isinstance(answer, Refusal):
            refusals.append(answer)
            continue
        counts = dict(answer.metrics)
        unit = UNITS[int(counts.pop("unit"))]
        counts.pop("site")
        context.enrolled[answer.site] = counts
        context.tracker.emit("enrol", site=answer.site, counts=counts, unit=unit)
        context.run.write_state(f"enrol/{answer.site}", {"counts": counts, "unit": unit})
    return refusals
