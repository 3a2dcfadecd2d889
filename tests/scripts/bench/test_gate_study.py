"""The gate's part of a study, on the smallest one."""

from pathlib import Path

import pytest

from clients import gated
from scripts.bench.gate_study import share_of_a_study

STUDY = """
name = "small"
arms = ["lower"]
sites.north = { role = "source", probe = "linear_hd" }
sites.west = { role = "target", probe = "convex" }
phantom = { patients = 4, frames = 2, side = 64 }
split = { val = 0.25, test = 0.25 }
finetune.epochs = 1
evaluate = { bootstrap = 100 }
compute = { batch = 2, jobs = 2 }
[model]
preset = "tiny"
image_size = 32
options = { hidden = 48, blocks = 1, mlp = 96, decoder = [16, 8, 8, 8], head_channels = 32 }
"""


def test_every_message_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, before = tmp_path / "small.toml", gated.answer
    study.write_text(STUDY, encoding="utf-8")
    line = share_of_a_study(study)
    # Enrolment of two, a training, two judged.
    assert float(line["messages"]) >= 5
    assert 0 < float(line["reference"]) < float(line["ours"])
    assert gated.answer is before
    assert not capsys.readouterr().out
