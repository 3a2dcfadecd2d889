"""A whole study under strace: every address that any of its processes names is of this machine.

tests/test_doors.py watches Python's own calls; this sees compiled libraries and children too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import common
from common.environment import SWITCHES
from scripts.audit import connections
from tests.test_doors import STUDY

ROOT = Path(common.__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not connections.is_there(), reason="strace is not installed")
def test_no_process_of_a_study_names_an_address_beyond_this_machine(tmp_path: Path) -> None:
    study, record = tmp_path / "egress.toml", tmp_path / "strace"
    study.write_text(STUDY, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    command = [
        sys.executable, "-c", "from scripts.cli import main; main()",
        "simulate", str(study), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(
        connections.traced(command, record),
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    found = connections.read(record)
    # Worker processes speak over local sockets: the trace has seen something.
    assert any(one.call == "connect" and one.family == "unix" for one in found), found
    assert [one for one in found if one.leads_out or one.listens_out] == []
