"""The allocator keeps what a step frees, so the next step finds its pages there."""

import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
from clients.memory import keep_freed_memory

def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step():
    layers = [np.ones(2**20, np.float32) for _ in range(40)]

plain = faults()
assert keep_freed_memory() and keep_freed_memory()
print(plain, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
def test_a_step_finds_the_pages_of_the_step_before() -> None:
    process = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True
    )
    plain, kept = map(int, process.stdout.split())
    assert plain > 1_000
    assert kept < plain / 10
