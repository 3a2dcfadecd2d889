"""`sonofed compare`: tables over the seeds of finished runs."""

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from common.config.compare import told
from common.errors import InputError
from scripts.compare_runs import (
    GAP,
    Configuration,
    Run,
    Spread,
    Tested,
    arm_tests,
    config_differences,
    configuration_tests,
    group,
    load_run,
    spreads,
)
from scripts.compare_selection import (
    Sheet,
    against_first,
    numbers_of,
    selection_spreads,
    selection_tests,
    sheets,
)
from scripts.live import console, say, show
from scripts.run_folders import find_runs, status_of

UNIT = (
    "Unit of spread and tests: a run, one seed of one configuration (paired t tests by seed). They "
    "tell whether training anew would show it again. The interval over patients (mean of the "
    "runs' own) tells what other patients might show."
)
HEAD = ("configuration", "arm", "site", "metric", "mean", "sd", "95 % over seeds",
        "95 % over patients", "seeds", "against", "difference", "p")  # fmt: skip


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders of runs (a sweep).")
    ],
    md: Annotated[bool, typer.Option("--md", help="Markdown tables.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="One CSV table, numbers unrounded.")
    ] = False,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric, such as dice; repeatable.")
    ] = None,
) -> None:
    """Mean and spread over seeds for every arm, site and metric; tests; differences of config.

    Runs that differ in their seed alone are one configuration. In each, the study's first arm is
    tested against every other; several configurations are tested against the first one given. What
    classifiers gained by selected images is shown as tables of budgets, arms and architectures.
    """
    if md and as_csv:
        raise InputError("--md and --csv: choose one")
    finished, left_out = _finished(runs)
    configurations = group(finished)
    rows = [*table_rows(configurations, metric), *selection_rows(configurations, metric)]
    if metric and not rows:
        known = dict.fromkeys(key[2] for run in finished for key in run.numbers)
        known |= dict.fromkeys(p.metric for run in finished for p in numbers_of(run.results))
        raise InputError(f"--metric {', '.join(metric)}: the runs have {', '.join(known)}")
    if as_csv:
        console.print(_csv(rows), end="", markup=False)
        return
    say_ = _markdown_lines if md else _terminal_lines
    # The second half has tables of its own shape.
    say_(finished, left_out, configurations, [row for row in rows if row["budget"] is None], metric)


def table_rows(
    configurations: Sequence[Configuration], metrics: Sequence[str] | None = None
) -> list[dict[str, object]]:
    """One row for every configuration, arm, site and metric; None where there is no number."""
    between = configuration_tests(configurations)
    rows: list[dict[str, object]] = []
    for place, configuration in enumerate(configurations):
        tests = arm_tests(configuration)
        for key, found in spreads(configuration).items():
            arm, site, metric = key
            if metrics and metric not in metrics:
                continue
            tested: list[tuple[Tested | None, str]] = [(tests.get(key), "arm")]
            if place:
                against = _against_first(between.get(key, []), configuration)
                both = [*tested, (against, "configuration")]
                tested = [(test, kind) for test, kind in both if test] or tested
            rows += [
                _row(configuration.label, arm, site, metric, found, test, kind)
                for test, kind in tested
            ]
    return rows


def selection_rows(
    configurations: Sequence[Configuration], metrics: Sequence[str] | None = None
) -> list[dict[str, object]]:
    """One row for every classifier (and average), site and metric."""
    rows = []
    for place, configuration in enumerate(configurations):
        tests = selection_tests(configuration)
        between = against_first(configurations[0], configuration) if place else {}
        for key, found in selection_spreads(configuration).items():
            if metrics and key.metric not in metrics:
                continue
            tested = [(tests.get(key), "arm"), (between.get(key), "configuration")]
            rows += [
                _row(configuration.label, key.arm, key.site, key.metric, found, test, kind)
                | {"budget": key.budget, "architecture": key.architecture}
                for test, kind in [pair for pair in tested if pair[0]] or [(None, "arm")]
            ]
    return rows


def _against_first(tests: Sequence[Tested], configuration: Configuration) -> Tested | None:
    start = f"[{configuration.label}] - "
    return next((test for test in tests if test.what.startswith(start)), None)


def _row(
    label: str, arm: str, site: str, metric: str, found: Spread, test: Tested | None, kind: str
) -> dict[str, object]:
    return {
        "configuration": label,
        "arm": arm,
        "budget": None,
        "architecture": None,
        "site": site,
        "metric": metric,
        "mean": found.mean,
        "sd": found.sd,
        "seeds_low": found.low,
        "seeds_high": found.high,
        "patients_low": found.patients_low,
        "patients_high": found.patients_high,
        "seeds": found.n,
        "test": kind if test else None,
        "against": test.what if test else None,
        "difference": test.difference if test else None,
        "difference_sd": test.sd if test else None,
        "p": test.p if test else None,
        "pairs": test.n if test else None,
    }


def _finished(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    found = find_runs(paths)
    runs = [folder for folder in found if (folder / "results.json").exists()]
    if not runs:
        raise InputError([f"{folder}: has not finished" for folder in found])
    left_out = [
        f"left out, not finished: {status.folder} ({status.state}, {status.place})"
        for status in (status_of(folder) for folder in found if folder not in runs)
    ]
    return [load_run(folder) for folder in runs], left_out


def _cells(row: dict[str, object]) -> list[str]:
    """A row for people."""
    digits = 1 if str(row["metric"]).startswith("hd95") else 3

    def number(value: object, sign: str = "") -> str:
        return f"{value:{sign}.{digits}f}" if isinstance(value, float) else ""

    def interval(low: object, high: object) -> str:
        return f"{number(low)} to {number(high)}" if isinstance(low, float) else ""

    p = row["p"]
    return [
        str(row["configuration"]),
        str(row["arm"]),
        str(row["site"]),
        "gap closure" if row["metric"] == GAP else str(row["metric"]),
        number(row["mean"]),
        number(row["sd"]),
        interval(row["seeds_low"], row["seeds_high"]),
        interval(row["patients_low"], row["patients_high"]),
        str(row["seeds"]),
        str(row["against"] or ""),
        number(row["difference"], "+"),
        f"{p:.2g}" if isinstance(p, float) else "",
    ]


def _shown(rows: Sequence[dict[str, object]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells without the columns that are empty, or the title's metric, throughout."""
    cells = [_cells(row) for row in rows]
    for before, after in pairwise(cells):
        if before[:4] == after[:4]:  # a second test of the same numbers
            after[4:9] = [""] * 5
    kept = [i for i in range(len(HEAD)) if any(row[i] for row in cells)]
    if len({row["metric"] for row in rows}) == 1:
        kept.remove(HEAD.index("metric"))
    return [HEAD[i] for i in kept], [[row[i] for i in kept] for row in cells]


def _facts(runs: Sequence[Run], left_out: Sequence[str]) -> list[str]:
    lines = [f"{len(runs)} finished runs. {UNIT}", *left_out]
    if any(run.study.get("untrained") for run in runs):
        lines.append("Untrained runs are among them: their numbers mean nothing.")
    if any(run.results.synthetic for run in runs):
        lines.append("Synthetic images (phantom): no evidence about patients or devices.")
    if any(run.results.selection for run in runs):
        lines.append("The p values of the tables by budget are not adjusted for their number.")
    machines = {tuple(sorted((k, str(v)) for k, v in r.results.machine.items())) for r in runs}
    if len(machines) > 1:
        lines.append("The runs come from different machines or libraries.")
    return lines


def _differences(runs: Sequence[Run]) -> list[str]:
    return [
        f"{key}: {', '.join(told(value) for value in values)}"
        for key, values in config_differences(runs).items()
    ]


def _terminal_lines(
    runs: Sequence[Run],
    left_out: Sequence[str],
    configurations: Sequence[Configuration],
    rows: Sequence[dict[str, object]],
    metrics: Sequence[str] | None,
) -> None:
    for line in _facts(runs, left_out):
        say(line)
    for line in _differences(runs):
        say(f"differs: {line}")
    for metric in dict.fromkeys(str(row["metric"]) for row in rows):
        head, cells = _shown([row for row in rows if row["metric"] == metric])
        table = Table(title=metric.replace("_", " "), title_justify="left")
        for name in head:
            right = name in ("mean", "sd", "seeds", "difference", "p")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for told_row in cells:
            table.add_row(*map(escape, told_row))
        show(table)
    for sheet in _sheets(configurations, metrics):
        table = Table(title=escape(sheet.title), title_justify="left")
        for n, name in enumerate(sheet.head):
            table.add_column(name, justify="left" if n < 2 else "right", overflow="fold")
        for told_row in _merged(sheet):
            table.add_row(*map(escape, told_row))
        show(table)


def _merged(sheet: Sheet) -> list[list[str]]:
    """Its rows; a budget is named in the first of its rows alone."""
    seen = [row[0] for row in sheet.rows]
    return [
        ["" if n and seen[n - 1] == row[0] else row[0], *row[1:]]
        for n, row in enumerate(sheet.rows)
    ]


def _sheets(configurations: Sequence[Configuration], metrics: Sequence[str] | None) -> list[Sheet]:
    return [
        sheet
        for place, configuration in enumerate(configurations)
        for sheet in sheets(configuration, metrics, configurations[0] if place else None)
    ]


def _markdown_lines(
    runs: Sequence[Run],
    left_out: Sequence[str],
    configurations: Sequence[Configuration],
    rows: Sequence[dict[str, object]],
    metrics: Sequence[str] | None,
) -> None:
    for line in _facts(runs, left_out):
        say(line + "\n")
    if differences := _differences(runs):
        say("Differences of config:\n")
        for line in differences:
            say(f"- {line}")
        say("")
    for metric in dict.fromkeys(str(row["metric"]) for row in rows):
        head, cells = _shown([row for row in rows if row["metric"] == metric])
        say(f"**{metric.replace('_', ' ')}**\n")
        say("| " + " | ".join(head) + " |")
        say("|" + "---|" * len(head))
        for told_row in cells:
            say("| " + " | ".join(cell.replace("|", "\\|") for cell in told_row) + " |")
        say("")
    for sheet in _sheets(configurations, metrics):
        say(f"**{sheet.title}**\n")
        say("| " + " | ".join(sheet.head) + " |")
        say("|" + "---|" * len(sheet.head))
        for told_row in _merged(sheet):
            say("| " + " | ".join(cell.replace("|", "\\|") for cell in told_row) + " |")
        say("")
    say("Runs: " + ", ".join(f"{r.folder} (seed {r.seed})" for r in runs))


def _csv(rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    names = list(rows[0]) if rows else list(HEAD)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
