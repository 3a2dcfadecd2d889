"""One study, three engines: the same weights and results to the last bit."""

from pathlib import Path

import pytest

from scripts.simulate import Engine, run_study_here
from tests.tiny import results_of, tiny, weights_of


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in one process; the other engines use its phantom and cache."""
    folder = tmp_path_factory.mktemp("engines")
    return run_study_here(tiny(), Engine.inprocess, folder, folder / "plain", False)


def test_two_workers_change_no_bit(plain: Path) -> None:
    study = tiny(compute={"batch": 2, "jobs": 2})
    run = run_study_here(study, Engine.inprocess, plain.parent, plain.parent / "jobs", False)
    assert weights_of(run) == weights_of(plain)
    assert results_of(run) == results_of(plain)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flowers_own_simulation_changes_no_bit(plain: Path) -> None:
    study = tiny(compute={"batch": 2, "jobs": 2})
    run = run_study_here(study, Engine.ray, plain.parent, plain.parent / "ray", False)
    assert weights_of(run) == weights_of(plain)
    assert results_of(run) == results_of(plain)
