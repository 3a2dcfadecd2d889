"""The least number of people that a figure stands for: groups of scalars below it are held back.

A site reports those figures of an evaluation that it has: each with the number of patients it is
of, under one stem, such as `ensemble.dice.mean` and `ensemble.dice.n_patients`. A stem of fewer
patients than the policy's minimum stays at the site, the others leave. Messages of which all must
come are refused whole instead (`clients.gate.policy`).
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from clients.gate.facts import ReplyFacts
from clients.gate.manifest import Exchange
from clients.gate.rules import Cohort


def counts_people(cohort: Cohort, name: str) -> bool:
    """Whether a scalar counts people, or what stands for them."""
    return any(fnmatchcase(name, pattern) for pattern in cohort.counts)


def stem_of(name: str) -> str:
    """What a scalar is a statistic of."""
    return name.rpartition(".")[0]


def held_back(cohort: Cohort, exchange: Exchange | None, reply: ReplyFacts) -> ReplyFacts:
    """A reply without the figures that stand for too few people.

    Args:
        cohort: The policy's.
        exchange: What the manifest says of the message; None where it says nothing.
        reply: As the site's code gave it.
    """
    if exchange is None or exchange.complete or cohort.minimum == 1:
        return reply
    small = {
        stem_of(name)
        for name, value in reply.metrics.items()
        if 0 < value < cohort.minimum and counts_people(cohort, name)
    }
    if not small:
        return reply
    kept = {name: value for name, value in reply.metrics.items() if stem_of(name) not in small}
    return replace(reply, metrics=kept)


def uncounted(cohort: Cohort, exchange: Exchange, metrics: Mapping[str, float | int]) -> list[str]:
    """Figures that came without the number of people that they are of, though there is one.

    Args:
        cohort: The policy's.
        exchange: What the manifest says of the message.
        metrics: Those of the reply.
    """
    if cohort.minimum == 1:
        return []
    wanted: dict[str, list[str]] = {}
    for name in exchange.metrics:
        if stem_of(name) and counts_people(cohort, name):
            wanted.setdefault(stem_of(name), []).append(name)
    return [
        name
        for name, value in metrics.items()
        if value and any(not metrics.get(count) for count in wanted.get(stem_of(name), ()))
    ]
