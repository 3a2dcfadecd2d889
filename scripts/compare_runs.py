"""Finished runs beside each other: means and spread over seeds, and paired tests.

The unit of every number here is a run (a seed of one configuration). The tests say whether
training anew would show the difference again; whether other patients would is what the intervals
over patients and the tests inside a run's own results.json say.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from common.config.compare import flatten, told
from common.errors import InputError
from common.formats import Results, read_results
from scripts.run_folders import read_study

TARGETS = "targets"
"""In the place of a site: the mean over the targets with a reference."""

GAP = "gap_closure"
UNCOMPARED = ("seed", "name")
Key = tuple[str, str, str]
"""Arm, site, metric."""


@dataclass(frozen=True)
class Number:
    """One number of one run, with the interval over patients where it has one."""

    mean: float
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Run:
    """A finished run: its resolved study, and its numbers by arm, site and metric."""

    folder: Path
    study: dict[str, Any]
    results: Results
    numbers: dict[Key, Number]

    @property
    def seed(self) -> int:
        """The study's."""
        return self.results.seed


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone.

    Attributes:
        label: What of the config sets it apart from the others; empty if there are no others.
        runs: By seed.
    """

    label: str
    runs: dict[int, Run]


@dataclass(frozen=True)
class Spread:
    """One arm, site and metric over the seeds of a configuration.

    Attributes:
        mean: Over seeds.
        sd: Standard deviation over seeds (n - 1); None for one seed.
        low: 95 % interval of the mean over seeds (Student's t); None for one seed.
        high: Its upper end.
        patients_low: Mean over seeds of the lower ends of the runs' intervals over patients.
        patients_high: The same of the upper ends.
        n: Seeds.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    patients_low: float | None
    patients_high: float | None
    n: int


@dataclass(frozen=True)
class Tested:
    """A paired difference over seeds: one - other.

    Attributes:
        what: Which two are compared.
        difference: Mean over the seeds that both have.
        sd: Of the differences; None for one seed.
        p: Two-sided paired t test, the unit a seed; None for fewer than two.
        n: Seeds in common.
    """

    what: str
    difference: float
    sd: float | None
    p: float | None
    n: int


def load_run(folder: Path) -> Run:
    """A finished run.

    Raises:
        InputError: If results.json is missing or not of the format.
    """
    results = read_results(folder / "results.json")
    numbers: dict[Key, Number] = {}
    for arm, of_arm in results.arms.items():
        for metric, summary in of_arm.targets.items():
            numbers[arm, TARGETS, metric] = Number(summary.mean, summary.ci_low, summary.ci_high)
        gaps = []
        for site, at in of_arm.sites.items():
            for metric, found in at.metrics.items():
                numbers[arm, site, metric] = Number(found.mean, found.ci_low, found.ci_high)
            if at.gap_closure is not None:
                numbers[arm, site, GAP] = Number(at.gap_closure)
                gaps.append(at.gap_closure)
        if gaps:
            numbers[arm, TARGETS, GAP] = Number(sum(gaps) / len(gaps))
    return Run(folder, read_study(folder), results, numbers)


def group(runs: Sequence[Run]) -> list[Configuration]:
    """Put runs that differ in their seed alone together, in the order given.

    Raises:
        InputError: If one seed of one configuration is there twice with other numbers.
    """
    flat = [_comparable(run.study) for run in runs]
    keys = [json.dumps(settings, sort_keys=True) for settings in flat]
    differing = config_differences(runs)
    groups: dict[str, dict[int, Run]] = {}
    labels: dict[str, str] = {}
    problems = []
    for run, key, settings in zip(runs, keys, flat, strict=True):
        labels[key] = ", ".join(f"{k}={told(settings.get(k))}" for k in differing)
        of_key = groups.setdefault(key, {})
        other = of_key.get(run.seed)
        if other is None:
            of_key[run.seed] = run
        elif (other.numbers, other.results.selection) != (run.numbers, run.results.selection):
            problems.append(
                f"{run.folder}: the same study and seed as {other.folder}, with other numbers; "
                "compare one of them"
            )
    if problems:
        raise InputError(problems)
    names = _named(runs) if len({run.results.study for run in runs}) > 1 else {}
    return [
        Configuration(
            ", ".join(x for x in (names.get(key, ""), labels[key]) if x), dict(sorted(of.items()))
        )
        for key, of in groups.items()
    ]


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Dotted keys (seed and name aside) in which the runs differ, with the values in order."""
    flat = [_comparable(run.study) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    found = {}
    for key in keys:
        values = list({json.dumps(s.get(key)): s.get(key) for s in flat}.values())
        if len(values) > 1:
            found[key] = values
    return found


def spread(values: Sequence[Number]) -> Spread:
    """Mean and spread over seeds."""
    means = np.array([v.mean for v in values], dtype=np.float64)
    n = len(means)
    lows = [v.ci_low for v in values if v.ci_low is not None]
    highs = [v.ci_high for v in values if v.ci_high is not None]
    whole = len(lows) == n and len(highs) == n
    mean = float(means.mean())
    sd = float(means.std(ddof=1)) if n > 1 else None
    half = None if sd is None else float(stats.t.isf(0.025, n - 1)) * sd / math.sqrt(n)
    return Spread(
        mean,
        sd,
        None if half is None else mean - half,
        None if half is None else mean + half,
        float(np.mean(lows)) if whole else None,
        float(np.mean(highs)) if whole else None,
        n,
    )


def spreads(configuration: Configuration) -> dict[Key, Spread]:
    """Every arm, site and metric that all seeds of a configuration have."""
    runs = list(configuration.runs.values())
    return {
        key: spread([run.numbers[key] for run in runs])
        for key in runs[0].numbers
        if all(key in run.numbers for run in runs)
    }


def paired(what: str, one: Mapping[int, float], other: Mapping[int, float]) -> Tested | None:
    """Compare two by the seeds that both have; None without any."""
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    difference = np.round([one[seed] - other[seed] for seed in seeds], 12)
    n, mean = len(seeds), float(difference.mean())
    if n < 2:
        return Tested(what, mean, None, None, n)
    sd = float(difference.std(ddof=1))
    if sd == 0.0:  # every seed says the same; a t value does not exist
        return Tested(what, mean, sd, 1.0 if mean == 0 else None, n)
    p = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))
    return Tested(what, mean, sd, p, n)


def arm_tests(configuration: Configuration) -> dict[Key, Tested]:
    """The leading arm against every other, by (other arm, site, metric)."""
    runs = configuration.runs
    main = next(iter(runs.values())).results.main
    found = {}
    for arm, site, metric in dict.fromkeys(k for run in runs.values() for k in run.numbers):
        if arm == main or metric == GAP:
            continue
        test = paired(
            f"{main} - {arm}",
            _by_seed(runs, (main, site, metric)),
            _by_seed(runs, (arm, site, metric)),
        )
        if test is not None:
            found[arm, site, metric] = test
    return found


def configuration_tests(configurations: Sequence[Configuration]) -> dict[Key, list[Tested]]:
    """Every later configuration against the first, by (arm, site, metric)."""
    found: dict[Key, list[Tested]] = {}
    if len(configurations) < 2:
        return found
    first = configurations[0]
    for key in next(iter(first.runs.values())).numbers:
        for other in configurations[1:]:
            test = paired(
                f"[{other.label}] - [{first.label}]",
                _by_seed(other.runs, key),
                _by_seed(first.runs, key),
            )
            if test is not None:
                found.setdefault(key, []).append(test)
    return found


def _by_seed(runs: Mapping[int, Run], key: Key) -> dict[int, float]:
    return {seed: run.numbers[key].mean for seed, run in runs.items() if key in run.numbers}


def _comparable(study: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(study)
    return {key: value for key, value in flat.items() if key not in UNCOMPARED}


def _named(runs: Iterable[Run]) -> dict[str, str]:
    """Names of studies, by configuration, where there are several."""
    return {json.dumps(_comparable(r.study), sort_keys=True): r.results.study for r in runs}
