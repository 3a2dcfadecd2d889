"""Replies are taken one at a time: memory does not grow with the number of sites."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import common

ROOT = Path(common.__file__).parents[1]


def measure(sites: int, jobs: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.streaming", str(sites), str(jobs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_eight_sites_need_no_more_memory_than_two() -> None:
    """Counted without what the process holds before the first round: libraries and the like."""
    two, eight = measure(2, 1), measure(8, 1)
    assert two["payload_mb"] > 35
    grown_two, grown_eight = (m["peak_mb"] - m["before_mb"] for m in (two, eight))
    print(f"2 sites {grown_two:.0f} MB, 8 sites {grown_eight:.0f} MB", two, eight)
    assert grown_eight <= 1.3 * grown_two
    # Weights, mean, both ways of the wire, a reply and the one before it, and what the site makes.
    assert grown_eight < 9 * eight["payload_mb"]
