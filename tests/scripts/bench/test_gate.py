"""The bench of the gate at a tiny size: what passes is what was sent."""

import pytest

from scripts.bench import gate


def test_a_gate_changes_no_weight_and_its_cost_is_told() -> None:
    (line,) = gate.run(preset="tiny", repeats=1, fresh=False, shares=(), study_file=None)
    assert line["max_difference"] == 0
    assert 0 < float(line["gate_seconds"]) < float(line["ours"])
    assert float(line["reference"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_round_of_real_processes_is_measured() -> None:
    line = gate.round_of({"a": (1000, 300), "b": (5,)}, repeats=1, seed=0)
    assert float(line["ours"]) > 0
    assert float(line["reference"]) > 0
    assert 50 < float(line["peak_rss_mb"]) < 300
