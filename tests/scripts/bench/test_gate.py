"""The bench of the gate at a tiny size: what passes is what was sent."""

from scripts.bench import gate


def test_a_gate_changes_no_weight_and_its_cost_is_told() -> None:
    (line,) = gate.run(preset="tiny", repeats=1, fresh=False)
    assert line["max_difference"] == 0
    assert 0 < float(line["gate_seconds"]) < float(line["ours"])
    assert float(line["reference"]) > 0
