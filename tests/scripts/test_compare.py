"""`sonofed compare`: means, spreads and tests against hand and scipy, on invented runs."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from common.config.load import load_study
from common.errors import InputError
from scripts.compare_runs import (
    GAP,
    TARGETS,
    Number,
    arm_tests,
    config_differences,
    configuration_tests,
    group,
    load_run,
    paired,
    spread,
    spreads,
)
from server.results import build_results, write
from tests.scripts.conftest import Command, write_study

DICE = {"mim": (0.70, 0.74, 0.69), "lower": (0.60, 0.66, 0.63), "upper": (0.80, 0.82, 0.81)}


def make_run(root: Path, name: str, seed: int, shift: float = 0.0, *overrides: str) -> Path:
    """A finished run with invented numbers: DICE at bo (plus the shift of mim), .1 more at ada."""
    root.mkdir(parents=True, exist_ok=True)
    study = load_study(write_study(root / "mini.toml"), [*overrides, f"seed={seed}"])
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(study.canonical())
    evaluations: dict[str, dict[str, float]] = {}
    for site, more in (("ada", 0.1), ("bo", 0.0)):
        flat: dict[str, float] = {}
        for arm, values in DICE.items():
            mean = values[seed] + more + (shift if arm == "mim" else 0.0)
            stem = f"{arm}.dice."
            flat |= {
                stem + "mean": mean, stem + "ci_low": mean - 0.1, stem + "ci_high": mean + 0.1,
                stem + "variance": 0.0025, stem + "n_images": 20, stem + "n_patients": 8,
            }  # fmt: skip
        evaluations[site] = flat
    results = build_results(
        study=study.name,
        digest=study.digest,
        seed=seed,
        synthetic=False,
        machine={"processor": "x"},
        main="mim",
        arms=list(DICE),
        roles={"ada": "source", "bo": "target"},
        units={"ada": "patient", "bo": "patient"},
        evaluations=evaluations,
        traffic={"ada": {"down": 1, "up": 1}, "bo": {"down": 1, "up": 1}},
    )
    write(results, folder / "results.json")
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "runs", f"s{seed}", seed) for seed in range(3)]


def test_mean_and_spread_by_hand() -> None:
    found = spread([Number(0.7, 0.6, 0.8), Number(0.74, 0.62, 0.86), Number(0.69, 0.58, 0.8)])
    assert found.mean == pytest.approx(0.71)
    assert found.sd is not None
    assert found.sd == pytest.approx(math.sqrt((0.01**2 + 0.03**2 + 0.02**2) / 2))
    low, high = stats.t.interval(0.95, 2, loc=0.71, scale=found.sd / math.sqrt(3))
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.patients_low == pytest.approx(0.6)
    assert found.patients_high == pytest.approx(0.82)
    alone = spread([Number(0.5)])
    assert (alone.mean, alone.sd, alone.low, alone.patients_low, alone.n) == (
        0.5,
        None,
        None,
        None,
        1,
    )


def test_paired_tests_are_scipys() -> None:
    one, other = {0: 0.7, 1: 0.74, 2: 0.69, 5: 9.0}, {0: 0.6, 1: 0.66, 2: 0.63}
    test = paired("x", one, other)
    assert test is not None
    expected = stats.ttest_rel([0.7, 0.74, 0.69], [0.6, 0.66, 0.63])
    assert test.p == pytest.approx(expected.pvalue)
    assert test.difference == pytest.approx(0.08)
    assert test.n == 3
    assert paired("x", {0: 1.0}, {1: 1.0}) is None
    same = paired("x", {0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None
    assert same.p == 1.0
    single = paired("x", {0: 1.0}, {0: 0.5})
    assert single is not None
    assert (single.difference, single.p) == (0.5, None)


def test_one_configuration(seeds: list[Path]) -> None:
    (configuration,) = group([load_run(folder) for folder in seeds])
    assert configuration.label == ""
    assert list(configuration.runs) == [0, 1, 2]
    found = spreads(configuration)
    assert found["mim", "bo", "dice"].mean == pytest.approx(0.71)
    assert found["mim", TARGETS, "dice"].mean == pytest.approx(0.71)
    gaps = [(0.70 - 0.60) / 0.2, (0.74 - 0.66) / 0.16, (0.69 - 0.63) / 0.18]
    assert found["mim", "bo", GAP].mean == pytest.approx(sum(gaps) / 3)
    assert ("lower", "bo", GAP) not in found
    test = arm_tests(configuration)["lower", "bo", "dice"]
    assert test.what == "mim - lower"
    assert test.difference == pytest.approx(0.08)


def test_configurations_are_told_apart_and_tested(seeds: list[Path], tmp_path: Path) -> None:
    wider = [
        make_run(tmp_path / "runs", f"w{seed}", seed, 0.02 + 0.001 * seed, "mim.epochs=9")
        for seed in range(2)
    ]
    runs = [load_run(folder) for folder in [*seeds, *wider]]
    assert config_differences(runs) == {"mim.epochs": [1, 9]}
    first, second = group(runs)
    assert (first.label, second.label) == ("mim.epochs=1", "mim.epochs=9")
    (test,) = configuration_tests([first, second])["mim", "bo", "dice"]
    assert test.n == 2  # the seeds that both have
    assert test.difference == pytest.approx(0.0205)
    assert test.what == "[mim.epochs=9] - [mim.epochs=1]"


def test_one_seed_twice_with_other_numbers_is_refused(seeds: list[Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", "s0", 0, 0.05)
    with pytest.raises(InputError, match="same study and seed"):
        group([load_run(seeds[0]), load_run(other)])
    group([load_run(seeds[0]), load_run(seeds[0])])


def test_the_command(sonofed: Command, seeds: list[Path], tmp_path: Path) -> None:
    stopped = tmp_path / "runs" / "s9"
    stopped.mkdir()
    (stopped / "study.json").write_text((seeds[0] / "study.json").read_text())
    said = sonofed("compare", tmp_path / "runs", "--metric", "dice")
    assert said.code == 0, said
    assert "3 finished runs" in said.out
    assert "one seed of one configuration" in said.out
    assert "left out, not finished" in said.out
    assert "0.710" in said.out
    said = sonofed("compare", tmp_path / "runs", "--md")
    assert "| mim | bo | 0.710 |" in said.out
    assert "**gap closure**" in said.out
    said = sonofed("compare", *seeds, "--csv")
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(said.out)))
    (row,) = [r for r in rows if (r["arm"], r["site"], r["metric"]) == ("lower", "bo", "dice")]
    assert float(row["mean"]) == pytest.approx(0.63)
    assert row["against"] == "mim - lower"
    assert float(row["p"]) < 0.05


def test_wrong_input(sonofed: Command, seeds: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = sonofed("compare", tmp_path / "empty", tmp_path / "gone")
    assert said.code == 2
    assert len(said.err.splitlines()) == 2
    assert sonofed("compare", *seeds, "--md", "--csv").code == 2
    assert "the runs have dice" in sonofed("compare", *seeds, "--metric", "dise").err
    (seeds[0] / "results.json").write_text(json.dumps({"arms": 3}))
    assert sonofed("compare", *seeds).code == 2
