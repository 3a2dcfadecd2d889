"""What the report shows of the second half, computed from events and results: no HTML, no pixel.

A number of the tables is a classifier after an arm's selection at a budget, judged on the test
images of all targets together; an average is over the architectures of a row, as in P2 Table 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from common.config.arms import BOUND_ARMS
from common.config.selection import budget_name
from common.formats import (
    CellResult,
    Event,
    Interval,
    SelectedResult,
    SelectionResults,
    Summary,
    WaitingEvent,
)
from server.report_arms import ABLATIONS, METRICS, is_main, percent


@dataclass(frozen=True)
class Row:
    """One arm at one budget.

    Attributes:
        arm: The arm.
        words: As the row is headed.
        values: By architecture; None where there is no classifier.
        average: Over the architectures.
        sites: By site, the average there.
    """

    arm: str
    words: str
    values: Sequence[Interval | None]
    average: Interval | None
    sites: Sequence[Interval | None]

    @property
    def all(self) -> list[Interval | None]:
        """Every number of the row, from left to right."""
        return [*self.values, self.average, *self.sites]


@dataclass(frozen=True)
class Group:
    """Rows that are ranked against each other.

    Attributes:
        title: A budget, or what is ablated.
        note: Beside it.
        rows: The arms.
        best: Column to the rows whose number is the highest; of two rows at least.
        second: Column to the rows whose number is the second highest; of three at least.
    """

    title: str
    note: str
    rows: Sequence[Row]
    best: Mapping[int, Sequence[int]] = field(default_factory=dict)
    second: Mapping[int, Sequence[int]] = field(default_factory=dict)


class Cells:
    """The classifiers' numbers, to be asked for by arm, budget and architecture."""

    def __init__(self, results: SelectionResults) -> None:
        self.results = results
        self.of = {(c.arm, c.budget, c.architecture): c for c in results.cells}
        self.architectures = list(dict.fromkeys(c.architecture for c in results.cells))
        self.sites = list(results.test)
        self.arms = list(dict.fromkeys(c.arm for c in results.cells))

    def budgets(self, arm: str) -> list[float]:
        """Of an arm, ascending."""
        return sorted({c.budget for c in self.results.cells if c.arm == arm})

    def value(self, arm: str, budget: float, architecture: str, metric: str) -> Interval | None:
        """One number of the table."""
        cell = self.of.get((arm, budget, architecture))
        return cell.pooled.get(metric) if cell else None

    def average(self, arm: str, budget: float, metric: str) -> Interval | None:
        """Over the architectures; None unless each has its number."""
        return averaged([self.value(arm, budget, a, metric) for a in self.architectures])

    def at_site(self, arm: str, budget: float, site: str, metric: str) -> Interval | None:
        """Over the architectures, on one site's test images."""
        cells = [self.of.get((arm, budget, a)) for a in self.architectures]
        return averaged([_summary(cell, site, metric) for cell in cells])

    def row(self, arm: str, budget: float, metric: str, words: str = "") -> Row | None:
        """All numbers of an arm at a budget; None where it has none."""
        values = [self.value(arm, budget, a, metric) for a in self.architectures]
        if not any(values):
            return None
        sites = self.sites if len(self.sites) > 1 else []
        return Row(
            arm,
            words or arm,
            values,
            self.average(arm, budget, metric),
            [self.at_site(arm, budget, site, metric) for site in sites],
        )


def _summary(cell: CellResult | None, site: str, metric: str) -> Interval | None:
    found: Summary | None = cell.sites.get(site, {}).get(metric) if cell else None
    if found is None:
        return None
    return Interval(mean=found.mean, ci_low=found.ci_low, ci_high=found.ci_high)


def averaged(values: Sequence[Interval | None]) -> Interval | None:
    """Mean over architectures, with the mean of their intervals' ends.

    The architectures are judged on the same images, so their errors go together. This is the
    interval if they went together fully, the widest that it can be.

    Returns:
        None unless each value is there; without ends where one has none.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    n = len(known)
    lows = [value.ci_low for value in known if value.ci_low is not None]
    highs = [value.ci_high for value in known if value.ci_high is not None]
    mean = sum(value.mean for value in known) / n
    if len(lows) < n or len(highs) < n:
        return Interval(mean=mean)
    return Interval(mean=mean, ci_low=sum(lows) / n, ci_high=sum(highs) / n)


def table(cells: Cells, metric: str) -> list[Group]:
    """P2 Table 2: the bounds first, then a group of rows for each budget."""
    groups = []
    bounds = [("full", "every image annotated", 1.0), ("source_only", "none annotated", 0.0)]
    for arm, note, budget in bounds:
        row = cells.row(arm, budget, metric)
        if row:
            groups.append(Group(percent(budget), note, [row]))
    arms = [arm for arm in cells.arms if is_main(arm) and arm not in BOUND_ARMS]
    for budget in sorted({b for arm in arms for b in cells.budgets(arm)}):
        rows = [row for arm in arms if (row := cells.row(arm, budget, metric))]
        groups.append(ranked(percent(budget), _images(cells.results, budget), rows))
    return groups


def ablations(cells: Cells, metric: str) -> list[Group]:
    """P2 Table 3, and the options that the study has arms for, at each of their budgets."""
    found = []
    budgets = sorted({b for a in cells.arms if not is_main(a) for b in cells.budgets(a)})
    for budget in budgets:
        for title, arms in ABLATIONS.items():
            rows = [
                row for arm, words in arms.items() if (row := cells.row(arm, budget, metric, words))
            ]
            if any(row.arm != "dual" for row in rows) and len(rows) > 1:
                note = f"{percent(budget)} annotated" if len(budgets) > 1 else ""
                found.append(ranked(title, note, rows))
    return found


def ranked(title: str, note: str, rows: Sequence[Row]) -> Group:
    """Which rows are the best and the second best of each column, equal to the shown digits."""
    best: dict[int, list[int]] = {}
    second: dict[int, list[int]] = {}
    for column in range(len(rows[0].all) if rows else 0):
        of: dict[float, list[int]] = {}
        for place, row in enumerate(rows):
            value = row.all[column]
            if value is not None:
                of.setdefault(round(value.mean, 3), []).append(place)
        order = sorted(of, reverse=True)
        if len(order) > 1:
            best[column] = of[order[0]]
        if len(order) > 2:
            second[column] = of[order[1]]
    return Group(title, note, rows, best, second)


def _images(results: SelectionResults, budget: float) -> str:
    """How many images the leading arm had annotated."""
    for chosen in results.selected:
        if chosen.arm == results.main and budget_name(budget) in chosen.selected:
            count = sum(chosen.selected[budget_name(budget)].values())
            return f"{count:,} of {sum(chosen.pool.values()):,} images annotated"
    return ""


@dataclass(frozen=True)
class Choice:
    """What an arm chose at each budget.

    Attributes:
        chosen: The arm's part of the results.
        budgets: By budget in words: site to images; None where the arm did not run.
        overlap: By budget in words: share of the leading arm's choice, or None.
        due: By budget in words: images that were due, where the number chosen is another.
    """

    chosen: SelectedResult
    budgets: Mapping[str, Mapping[str, int] | None]
    overlap: Mapping[str, float | None]
    due: Mapping[str, int]


def choices(results: SelectionResults) -> dict[str, list[Choice]]:
    """What was chosen: the arms of every budget under "", the ablations under their budgets."""
    found: dict[str, list[Choice]] = {}
    for title, main in (("", True), ("Ablations", False)):
        arms = [c for c in results.selected if is_main(c.arm) == main and c.arm != "full"]
        names = sorted({b for c in arms for b in c.selected}, key=_number)
        if arms:
            found[title] = [
                Choice(
                    c,
                    {percent(_number(name)): c.selected.get(name) for name in names},
                    {percent(_number(name)): c.overlap.get(name) for name in names},
                    {
                        percent(_number(name)): due
                        for name, due in c.due.items()
                        if due != sum(c.selected.get(name, {}).values())
                    },
                )
                for c in arms
            ]
    return found


def _number(name: str) -> float:
    """`"12_5"` -> .125."""
    return float(name.replace("_", ".")) / 100


@dataclass(frozen=True)
class Test:
    """The leading arm against another: one row of the comparisons."""

    arm: str
    budget: float
    cells: Sequence[CellResult | None]


def tests(cells: Cells) -> list[Test]:
    """Every arm and budget whose classifiers were compared with the leading arm's."""
    found = []
    for arm in cells.arms:
        for budget in cells.budgets(arm):
            of = [cells.of.get((arm, budget, a)) for a in cells.architectures]
            tested = [cell if cell and cell.p is not None else None for cell in of]
            if arm != cells.results.main and any(tested):
                found.append(Test(arm, budget, tested))
    return sorted(found, key=lambda test: test.budget)


@dataclass(frozen=True)
class Headline:
    """What the study found, at its smallest budget.

    Attributes:
        arm: The leading arm.
        budget: In words.
        values: Metric's words to (the leading arm, the best other or None, the upper bound).
        other: The best other arm that runs at that budget, by balanced accuracy.
        others: How many there are.
        commonest: The commonest label.
        share: Of the test images that carry it.
        images: Test images.
    """

    arm: str
    budget: str
    values: Mapping[str, tuple[Interval, Interval | None, Interval | None]]
    other: str
    others: int
    commonest: str
    share: float
    images: int


def headline(cells: Cells, commonest: tuple[str, float]) -> Headline | None:
    """The leading arm at its smallest budget; None where no arm selects."""
    main = cells.results.main
    budgets = cells.budgets(main)
    if not main or not budgets:
        return None
    budget = budgets[0]
    others = [
        (found.mean, arm)
        for arm in cells.arms
        if arm not in (main, *BOUND_ARMS) and is_main(arm) and not arm.startswith("dual")
        if (found := cells.average(arm, budget, "balanced_accuracy"))
    ]
    other = max(others, default=(0.0, ""))[1]
    values = {}
    for metric, words in METRICS.items():
        ours = cells.average(main, budget, metric)
        if ours is not None:
            beside = cells.average(other, budget, metric) if other else None
            values[words] = (ours, beside, cells.average("full", 1.0, metric))
    images = sum(sum(counts.values()) for counts in cells.results.test.values())
    if not values:
        return None
    return Headline(main, percent(budget), values, other, len(others), *commonest, images)


@dataclass(frozen=True)
class Health:
    """Embeddings that several arms share, and how far they are spread.

    Attributes:
        arms: Which arms choose by them.
        sites: By site, (mean pairwise angle in degrees, effective rank), or None.
    """

    arms: Sequence[str]
    sites: Sequence[tuple[float, float] | None]


def health(selected: Sequence[SelectedResult], sites: Sequence[str]) -> list[Health]:
    """Of each embedding once, mean angle and effective rank by site."""
    groups: dict[tuple[tuple[float, float] | None, ...], list[str]] = {}
    for chosen in selected:
        numbers = tuple(
            (57.29577951308232 * at["mean_angle"], at["effective_rank"])
            if (at := chosen.embedding.get(site))
            else None
            for site in sites
        )
        if any(numbers):
            groups.setdefault(numbers, []).append(chosen.arm)
    return [Health(arms, numbers) for numbers, arms in groups.items()]


@dataclass(frozen=True)
class Waited:
    """A site's experts, as the study saw them.

    Attributes:
        site: Which.
        first: "annotated of wanted" when it was first told.
        last: The same when it was last told.
        looks: How often it changed.
    """

    site: str
    first: str
    last: str
    looks: int


def waited(waiting: Sequence[WaitingEvent]) -> list[Waited]:
    """What each site that the study waited for lacked, first and last."""
    told: dict[str, list[str]] = {}
    for event in waiting:
        for site, text in event.sites.items():
            of_site = told.setdefault(site, [])
            if not of_site or of_site[-1] != text:
                of_site.append(text)
    return [Waited(site, texts[0], texts[-1], len(texts)) for site, texts in told.items()]


def waiting_seconds(events: Sequence[Event]) -> float:
    """From the first `waiting` event to the event that came after the last one, or to it itself."""
    places = [n for n, event in enumerate(events) if isinstance(event, WaitingEvent)]
    if not places:
        return 0.0
    last = events[min(places[-1] + 1, len(events) - 1)]
    return max(0.0, _seconds(last.time) - _seconds(events[places[0]].time))


def _seconds(time: float | str) -> float:
    return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else float(time)
