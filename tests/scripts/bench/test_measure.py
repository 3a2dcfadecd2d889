"""Both ways in processes of their own: medians, peaks that are theirs alone, facts handed back."""

import os
from pathlib import Path

import numpy as np
import pytest

from scripts.bench import measure
from scripts.bench.measure import Facts, Stopwatch, Work, compare, peak_rss_mb, record

LARGE_MB = 300


def light(*, size: int) -> Work:
    return lambda: (1.0, {"process": os.getpid(), "size": size})


def heavy(*, size: int) -> Work:
    seconds = iter((5.0, 2.0, 3.0))

    def work() -> tuple[float, Facts]:
        np.ones(LARGE_MB * 2**20, dtype=np.uint8)
        return next(seconds), {"process": os.getpid(), "size": size}

    return work


def test_each_way_has_a_process_and_a_peak_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where the processes find this file
    burden = np.ones(LARGE_MB * 2**20, dtype=np.uint8)  # this process's memory is not theirs
    ours, reference = compare(light, heavy, repeats=3, size=7)
    del burden
    assert reference.seconds == 3.0
    assert ours.facts["size"] == reference.facts["size"] == 7
    assert len({ours.facts["process"], reference.facts["process"], os.getpid()}) == 3
    assert reference.peak_rss_mb - ours.peak_rss_mb > 0.9 * LARGE_MB


def test_here_both_ways_take_turns() -> None:
    ours, reference = compare(light, heavy, repeats=2, fresh=False, size=1)
    assert (ours.seconds, reference.seconds) == (1.0, 3.5)
    assert ours.facts["process"] == os.getpid()
    line = record("x", ours, reference, size=1)
    assert (line["ours"], line["reference"], line["size"]) == (1.0, 3.5, 1)


def test_a_stopwatch_adds_up_what_it_encloses() -> None:
    watch = Stopwatch()
    with watch:
        sum(range(200_000))
    first = watch.seconds
    sum(range(200_000))
    assert watch.seconds == first > 0
    with watch:
        sum(range(200_000))
    assert watch.seconds > first


def test_the_machine_is_named_and_the_peak_is_of_this_process() -> None:
    assert measure.machine()[0].isdigit()
    assert 10 < peak_rss_mb() < 1e6
