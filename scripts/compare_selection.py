"""Runs of active learning beside each other: P2's Tables 2 and 3, over seeds.

The unit is a run, as in scripts/compare_runs.py. A run's number is a classifier's on the test
images of all targets together (or of one site); its average is over the architectures, taken in
every run before the runs are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.config.arms import BOUND_ARMS
from common.formats import Results
from scripts.compare_runs import (
    TARGETS,
    Configuration,
    Number,
    Spread,
    Tested,
    paired,
    spread,
)
from server.report_arms import ABLATIONS, METRICS, is_main, percent
from server.report_selection import Cells

AVERAGE = "average"
"""In the place of an architecture: the mean over all of them."""


@dataclass(frozen=True)
class Place:
    """One number of the tables.

    Attributes:
        arm: Whose choice the classifier was fine-tuned on.
        budget: Share of the pool.
        architecture: Of the classifier, or `AVERAGE`.
        site: Whose test images, or `TARGETS`: all targets' together.
        metric: accuracy, balanced_accuracy or auroc.
    """

    arm: str
    budget: float
    architecture: str
    site: str
    metric: str


@dataclass(frozen=True)
class Sheet:
    """A table for people: heads, and rows of as many cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def numbers_of(results: Results) -> dict[Place, Number]:
    """Every classifier's numbers of a run; empty without a second half."""
    if results.selection is None:
        return {}
    cells = Cells(results.selection)
    found: dict[Place, Number] = {}
    for cell in results.selection.cells:
        for metric, value in cell.pooled.items():
            place = Place(cell.arm, cell.budget, cell.architecture, TARGETS, metric)
            found[place] = Number(value.mean, value.ci_low, value.ci_high)
        for site, metrics in cell.sites.items():
            for metric, own in metrics.items():
                place = Place(cell.arm, cell.budget, cell.architecture, site, metric)
                found[place] = Number(own.mean, own.ci_low, own.ci_high)
    for arm in cells.arms:
        for budget in cells.budgets(arm):
            for metric in METRICS:
                averages = {TARGETS: cells.average(arm, budget, metric)}
                averages |= {s: cells.at_site(arm, budget, s, metric) for s in cells.sites}
                for site, mean in averages.items():
                    if mean is not None:
                        number = Number(mean.mean, mean.ci_low, mean.ci_high)
                        found[Place(arm, budget, AVERAGE, site, metric)] = number
    return found


def selection_spreads(configuration: Configuration) -> dict[Place, Spread]:
    """Every number that all seeds of a configuration have."""
    seeds = [numbers_of(run.results) for run in configuration.runs.values()]
    return {
        place: spread([numbers[place] for numbers in seeds])
        for place in seeds[0]
        if all(place in numbers for numbers in seeds)
    }


def selection_tests(configuration: Configuration) -> dict[Place, Tested]:
    """The leading arm against each other at the same budget, by the other's place."""
    runs = {seed: numbers_of(run.results) for seed, run in configuration.runs.items()}
    main = main_of(configuration)
    found = {}
    for place in dict.fromkeys(place for numbers in runs.values() for place in numbers):
        lead = Place(main, place.budget, place.architecture, place.site, place.metric)
        if place.arm == main:
            continue
        test = paired(f"{main} - {place.arm}", _by_seed(runs, lead), _by_seed(runs, place))
        if test is not None:
            found[place] = test
    return found


def against_first(first: Configuration, other: Configuration) -> dict[Place, Tested]:
    """A later configuration's numbers against those of the first."""
    ours = {seed: numbers_of(run.results) for seed, run in other.runs.items()}
    theirs = {seed: numbers_of(run.results) for seed, run in first.runs.items()}
    what = f"[{other.label}] - [{first.label}]"
    tests = {
        place: paired(what, _by_seed(ours, place), _by_seed(theirs, place))
        for place in dict.fromkeys(place for numbers in ours.values() for place in numbers)
    }
    return {place: test for place, test in tests.items() if test is not None}


def main_of(configuration: Configuration) -> str:
    """The selecting arm that leads; empty where none selects."""
    results = next(iter(configuration.runs.values())).results
    return results.selection.main if results.selection else ""


def sheets(
    configuration: Configuration, metrics: Sequence[str] | None, first: Configuration | None = None
) -> list[Sheet]:
    """P2 Table 2 and Table 3 in each metric: mean over seeds ± standard deviation.

    Args:
        configuration: Runs that differ in their seed alone.
        metrics: Only these; all, if None.
        first: The configuration to test the averages against, if this is a later one.
    """
    found = selection_spreads(configuration)
    tests = selection_tests(configuration)
    between = against_first(first, configuration) if first else {}
    main = main_of(configuration)
    arms = list(dict.fromkeys(place.arm for place in found))
    architectures = [a for a in dict.fromkeys(p.architecture for p in found) if a != AVERAGE]
    columns = [*architectures, AVERAGE]
    label = f", {configuration.label}" if configuration.label else ""
    n = len(configuration.runs)
    made = []
    for metric, words in METRICS.items():
        if (metrics and metric not in metrics) or not any(p.metric == metric for p in found):
            continue
        budgets = {
            arm: sorted({p.budget for p in found if (p.arm, p.metric) == (arm, metric)})
            for arm in arms
        }
        chosen = [arm for arm in arms if is_main(arm)]
        order = [(arm, b) for arm in ("full", "source_only") for b in budgets.get(arm, [])]
        order += [
            (arm, budget)
            for budget in sorted({b for arm in chosen for b in budgets[arm]})
            for arm in chosen
            if arm not in BOUND_ARMS and budget in budgets[arm]
        ]
        head = ["annotated", "arm", *columns]
        head += [f"{main} - arm", "p"] if n > 1 and main else []
        head += ["against the first", "p"] if between else []
        parts = [(f"{words} by budget", [(percent(b), arm, arm, b) for arm, b in order])]
        parts += [(f"{words}, ablations: {title}", rows) for title, rows in _ablations(budgets)]
        made += [
            Sheet(
                f"{title}{label} (mean of {n} seed{'s' if n != 1 else ''}"
                f"{' ± sd' if n > 1 else ''})",
                head,
                [
                    [
                        when, name,
                        *_numbers(found, arm, budget, columns, metric),
                        *(_tested(tests, arm, budget, metric) if n > 1 and main else []),
                        *(_tested(between, arm, budget, metric) if between else []),
                    ]
                    for when, name, arm, budget in rows
                ],
            )
            for title, rows in parts
            if rows
        ]  # fmt: skip
    return made


def _ablations(
    budgets: Mapping[str, Sequence[float]],
) -> list[tuple[str, list[tuple[str, str, str, float]]]]:
    """Rows of each ablation at each of its budgets."""
    found = []
    shown = sorted({b for arm, of in budgets.items() if not is_main(arm) for b in of})
    for title, words in ABLATIONS.items():
        rows = [
            (percent(budget), name, arm, budget)
            for budget in shown
            for arm, name in words.items()
            if budget in budgets.get(arm, ())
        ]
        if any(arm != "dual" for *_, arm, _ in rows):
            found.append((title, rows))
    return found


def _numbers(
    found: Mapping[Place, Spread], arm: str, budget: float, columns: Sequence[str], metric: str
) -> list[str]:
    cells = []
    for architecture in columns:
        number = found.get(Place(arm, budget, architecture, TARGETS, metric))
        text = "" if number is None else f"{number.mean:.3f}"
        cells.append(text if number is None or number.sd is None else f"{text} ± {number.sd:.3f}")
    return cells


def _tested(tests: Mapping[Place, Tested], arm: str, budget: float, metric: str) -> list[str]:
    test = tests.get(Place(arm, budget, AVERAGE, TARGETS, metric))
    if test is None:
        return ["", ""]
    shown = round(test.difference, 3) + 0.0  # no "-0.000"
    return [f"{shown:+.3f}", "" if test.p is None else f"{test.p:.2g}"]


def _by_seed(runs: Mapping[int, Mapping[Place, Number]], place: Place) -> dict[int, float]:
    return {seed: numbers[place].mean for seed, numbers in runs.items() if place in numbers}
