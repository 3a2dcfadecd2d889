"""enrol: who is there, and how large."""

from common.wire.vocabulary import ENROL, UNITS
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal


def run(context: ServerContext) -> None:
    """Ask every node who it is; every site of the study must be there once.

    Raises:
        StudyStopped: Naming the sites that refused or are missing.
    """
    problems = []
    question = Question("query", "enrol", metrics=ENROL)
    for answer in context.exchange.enrol(question):
        if isinstance(answer, Refusal):
            problems.append(f"{answer.site}: {answer.reason}")
            continue
        counts = dict(answer.metrics)
        unit = UNITS[int(counts.pop("unit"))]
        counts.pop("site")
        context.enrolled[answer.site] = counts
        context.tracker.emit("enrol", site=answer.site, counts=counts, unit=unit)
        context.run.write_state(f"enrol/{answer.site}", {"counts": counts, "unit": unit})
    missing = [site for site in context.study.sites if site not in context.enrolled]
    if problems or missing:
        raise StudyStopped(
            "enrol: " + "; ".join([*problems, *(f"{site}: did not enrol" for site in missing)])
        )
