"""Studies that a policy's [study] lets through, and some that break one rule each.

A site's policy names no study's settings but what they may be. So the study that a gate is tried
with is made of those rules: a key for each, with a value that it allows.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

from clients.gate.policy import study_problems
from clients.gate.rules import Rule, Rules

ANY = "any"
"""Stands for a star in a pattern."""
WORDS = ("x", "any", "1", "1.0", "a_b", "")
FOREIGN = "somebody.own:part"
MOST = 12
"""Rules that are broken, one study each."""


def invented(rules: Rules, name: str, stage: str) -> dict[str, Any]:
    """A study with as many of the rules' keys as can stand beside each other.

    Args:
        rules: The policy's [study].
        name: The study's.
        stage: Stands for the star that a pattern begins with.
    """
    study: dict[str, Any] = {"name": name}
    problems = set(study_problems(rules, study))
    for pattern in rules:
        key = _key(pattern, stage)
        for value in _values(rules, key):
            tried = _with(study, key, value)
            if tried is None:
                break
            found = set(study_problems(rules, tried))
            if found <= problems:
                study, problems = tried, found
                break
    return study


def breaking(
    rules: Rules, study: Mapping[str, Any], stage: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Studies that break one rule each: what is broken, and the study.

    Args:
        rules: The policy's [study].
        study: One that passes.
        stage: As in `invented`.
    """
    made = 0
    for pattern, rule in rules.items():
        key = _key(pattern, stage)
        value = next(filter(rule.problem, _wrong(rule)), None)
        spoilt = _with(study, key, value, over=True)
        if value is None or spoilt is None or made == MOST or not fnmatchcase(key, pattern):
            continue
        made += 1
        yield f"a study that breaks the rule for {pattern}", spoilt
    for pattern in rules:
        less = _without(study, pattern)
        if less != study and any(study_problems(rules, less)):
            yield f"a study without {pattern}, which a rule wants", less
            return


def _key(pattern: str, stage: str) -> str:
    """A key that a pattern means; nothing for one that is more than words and stars."""
    key = pattern.replace("*", stage, 1) if pattern.startswith("*.") else pattern
    return key.replace("*", ANY)


def _values(rules: Rules, key: str) -> Iterator[Any]:
    """What a key could be, by the rules that speak of it."""
    for pattern, rule in rules.items():
        if not fnmatchcase(key, pattern):
            continue
        yield from rule.values or ()
        for bound in (rule.low, rule.high):
            if bound is not None:
                yield from (int(bound), bound) if bound == int(bound) else (bound, int(bound) + 1)
    yield from (1, *WORDS, None)


def _wrong(rule: Rule) -> Iterator[Any]:
    """Values that a rule could be broken with."""
    if rule.high is not None:
        yield rule.high + 1
    if rule.low is not None:
        yield rule.low - 1
    yield from (FOREIGN, 1.5)


def _with(
    study: Mapping[str, Any], key: str, value: Any, *, over: bool = False
) -> dict[str, Any] | None:
    """The study with one more key; None where something else stands in its way.

    Args:
        study: The study.
        key: With dots.
        value: What it is to be.
        over: Put it in place of what is there.
    """
    made = deepcopy(dict(study))
    table = made
    *path, last = key.split(".")
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            if not over:
                return None
            inner = table[part] = {}
        table = inner
    if last in table and not over:
        return None
    table[last] = value
    return made


def _without(study: Mapping[str, Any], key: str) -> dict[str, Any]:
    made = deepcopy(dict(study))
    table: Any = made
    *path, last = key.split(".")
    for part in path:
        table = table.get(part, {}) if isinstance(table, dict) else {}
    if isinstance(table, dict):
        table.pop(last, None)
    return made


__all__ = ["breaking", "invented"]
