"""enrol: who is there, and how large; and between rounds, who still is."""

from collections.abc import Sequence

from common.wire.vocabulary import ENROL, UNITS
from server.attendance import gone, read_changes
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal

BACK = "`sonofed study add-site` brings one back"


def run(context: ServerContext) -> None:
    """Ask every node who it is; every site of the study that was not dropped must be there once.

    Raises:
        StudyStopped: Naming the sites that refused or are missing.
    """
    wanted = present(context, tuple(context.study.sites))
    refusals = _ask(context, wanted, wait=True)
    missing = [site for site in wanted if site not in context.enrolled]
    # Where nobody is missing, a node that refuses is of a site that does not take part.
    if missing or any(refusal.taken for refusal in refusals):
        problems = [f"{refusal.site}: {refusal.reason}" for refusal in refusals]
        raise StudyStopped(
            "enrol: " + "; ".join([*problems, *(f"{site}: did not enrol" for site in missing)])
        )


def present(context: ServerContext, sites: Sequence[str]) -> tuple[str, ...]:
    """Those of the sites that take part now, looked up anew; every round and step begins so.

    A site that came back is enrolled first, if it was not; where it cannot be, it takes no part
    yet, and the next round asks it again.

    Raises:
        StudyStopped: If no target or no source is left.
    """
    study = context.study
    now = gone(read_changes(context.run.folder))
    for site, change in now.items():
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


def _take_back(context: ServerContext, back: Sequence[str]) -> None:
    strangers = [site for site in back if site not in context.enrolled]
    refusals = _ask(context, strangers, wait=False) if strangers else []
    for site in back:
        if site in context.enrolled:
            del context.gone[site]
            context.tracker.emit("site", site=site, change="added", reason="")
            continue
        words = "; ".join(["is not here yet", *(refusal.reason for refusal in refusals)])
        if context.gone[site] != words:
            context.gone[site] = words
            context.tracker.emit("waiting", stage="enrol", sites={site: words})


def _ask(context: ServerContext, sites: Sequence[str], *, wait: bool) -> list[Refusal]:
    """Ask who is there; the nodes that gave no answer."""
    refusals = []
    question = Question("query", "enrol", metrics=ENROL)
    for answer in context.exchange.enrol(question, sites, wait=wait):
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
