"""`sonofed compare` over runs of active learning: P2's tables over seeds, against scipy."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from common.config.study import Study
from scripts.compare_runs import TARGETS, Run, group, load_run
from scripts.compare_selection import (
    AVERAGE,
    Place,
    numbers_of,
    selection_spreads,
    selection_tests,
    sheets,
)
from tests.invented import breast, invented_run
from tests.scripts.conftest import Command

ARMS = ["dual", "random", "full", "source_only", "dual_k2", "frozen"]
PAIR = tuple(breast().classify.architectures)


def study_of(seed: int, **changes: object) -> Study:
    return breast(arms=ARMS, seed=seed, **{"select.budgets": [0.2, 0.5], **changes})


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [invented_run(root / f"s{seed}", study_of(seed)) for seed in range(3)]


def cells(run: Run, arm: str, budget: float, metric: str) -> list[float]:
    found = run.results.selection
    assert found is not None
    return [c.pooled[metric].mean for c in found.cells if (c.arm, c.budget) == (arm, budget)]


def test_averages_are_taken_in_each_run_before_the_runs_are_compared(seeds: list[Path]) -> None:
    runs = [load_run(folder) for folder in seeds]
    (configuration,) = group(runs)
    place = Place("random", 0.2, AVERAGE, TARGETS, "accuracy")
    means = [float(np.mean(cells(run, "random", 0.2, "accuracy"))) for run in runs]
    found = selection_spreads(configuration)[place]
    assert found.mean == pytest.approx(np.mean(means))
    assert found.sd == pytest.approx(np.std(means, ddof=1))
    test = selection_tests(configuration)[place]
    lead = [float(np.mean(cells(run, "dual", 0.2, "accuracy"))) for run in runs]
    assert test.what == "dual - random"
    assert test.p == pytest.approx(stats.ttest_rel(lead, means).pvalue)
    assert test.n == 3


def test_sites_and_bounds_have_numbers_too(seeds: list[Path]) -> None:
    numbers = numbers_of(load_run(seeds[0]).results)
    assert Place("dual", 0.5, PAIR[0], "logiq_5", "auroc") in numbers
    assert Place("full", 1.0, AVERAGE, TARGETS, "auroc") in numbers
    (configuration,) = group([load_run(folder) for folder in seeds])
    tests = selection_tests(configuration)
    # Nothing of the leading arm stands at the bounds' budgets, so nothing is tested there.
    assert not [place for place in tests if place.arm in ("full", "source_only", "dual")]


def test_the_papers_tables(seeds: list[Path]) -> None:
    (configuration,) = group([load_run(folder) for folder in seeds])
    budgets, components, clusters = sheets(configuration, ["accuracy"])
    assert list(budgets.head) == ["annotated", "arm", *PAIR, "average", "dual - arm", "p"]
    assert [tuple(row[:2]) for row in budgets.rows] == [
        ("100\u202f%", "full"), ("0\u202f%", "source_only"),
        ("20\u202f%", "dual"), ("20\u202f%", "random"),
        ("50\u202f%", "dual"), ("50\u202f%", "random"),
    ]  # fmt: skip
    assert " ± " in budgets.rows[2][2]
    assert [row[1] for row in components.rows] == ["frozen backbone only", "dual"]
    assert [row[1] for row in clusters.rows] == ["k = 2", "k as the study has it"]
    assert clusters.rows[1][2:5] == budgets.rows[2][2:5]


def test_one_seed_has_no_spread_and_no_test(seeds: list[Path]) -> None:
    (configuration,) = group([load_run(seeds[0])])
    first = sheets(configuration, ["auroc"])[0]
    assert list(first.head) == ["annotated", "arm", *PAIR, "average"]
    assert "±" not in "".join("".join(row) for row in first.rows)


def test_configurations_are_tested_against_the_first(seeds: list[Path], tmp_path: Path) -> None:
    other = [
        invented_run(tmp_path / f"o{seed}", study_of(seed, **{"score.omega": 2.0}))
        for seed in range(2)
    ]
    first, second = group([load_run(folder) for folder in [*seeds, *other]])
    assert second.label == "score.omega=2.0"
    sheet = sheets(second, ["accuracy"], first)[0]
    assert list(sheet.head[-2:]) == ["against the first", "p"]
    assert {row[-2] for row in sheet.rows} == {"+0.000"}  # the invented numbers are the same


def test_the_command(sonofed: Command, seeds: list[Path]) -> None:
    said = sonofed("compare", *seeds, "--md", "--metric", "balanced_accuracy")
    assert said.code == 0, said
    assert "**Balanced accuracy by budget (mean of 3 seeds ± sd)**" in said.out
    assert "| 20\u202f% | dual |" in said.out
    assert "**AUROC" not in said.out
    said = sonofed("compare", *seeds)
    assert "Accuracy, ablations: Components (P2 Table 3)" in said.out
    rows = list(csv.DictReader(io.StringIO(sonofed("compare", *seeds, "--csv").out)))
    (row,) = [
        r for r in rows
        if (r["arm"], r["budget"], r["architecture"], r["site"], r["metric"])
        == ("random", "0.2", "average", TARGETS, "accuracy")
    ]  # fmt: skip
    assert row["against"] == "dual - random"
    assert row["pairs"] == "3"
    assert (
        "the runs have accuracy, balanced_accuracy, auroc"
        in sonofed("compare", *seeds, "--metric", "dice").err
    )
