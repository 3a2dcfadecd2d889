"""Two ways of one piece of work, measured side by side.

Ours and the plain way each live in a fresh process of their own, so that neither finds the other's
memory or caches; their repeats alternate, so that a busy machine slows both alike. Time is the
process's CPU time (one thread), median over the repeats.
"""

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = 1

Record = dict[str, str | float]
Facts = dict[str, Any]
Work = Callable[[], tuple[float, Facts]]
"""One repeat: does the work, and gives the seconds that count and whatever else is of interest."""

Factory = Callable[..., Work]
"""Makes the input, which does not count. A function of a module: it is called in a new process."""


@dataclass(frozen=True)
class Side:
    """What was measured of one way.

    Attributes:
        seconds: Median CPU time of a repeat.
        peak_rss_mb: Largest resident memory of its process, imports and input included.
        facts: Of the last repeat.
    """

    seconds: float
    peak_rss_mb: float
    facts: Facts


class Stopwatch:
    """Adds up the CPU time of `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> "Stopwatch":
        self._since = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._since


def compare(
    ours: Factory,
    reference: Factory,
    *,
    repeats: int,
    fresh: bool = True,
    ours_only: Mapping[str, Any] | None = None,
    **sizes: Any,
) -> tuple[Side, Side]:
    """Measure both ways on the same input.

    Args:
        ours: Called with `sizes` and `ours_only`.
        reference: The plain way; called with `sizes`.
        repeats: Of each way, in turn.
        fresh: False: both in this process (quick, for tests; the peak is then of both).
        ours_only: Settings that the plain way does not have.
        **sizes: Of the input.

    Returns:
        Ours and the reference.
    """
    makers = ((ours, {**sizes, **(ours_only or {})}), (reference, sizes))
    if not fresh:
        works = [factory(**arguments) for factory, arguments in makers]
        runs = [[work() for work in works] for _ in range(repeats)]
        return _side([run[0] for run in runs], peak_rss_mb()), _side(
            [run[1] for run in runs], peak_rss_mb()
        )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(1, context) as other:
        pools = (one, other)
        for pool, (factory, arguments) in zip(pools, makers, strict=True):
            pool.submit(_prepare, factory, arguments).result()
        runs = [[pool.submit(_repeat).result() for pool in pools] for _ in range(repeats)]
        peaks = [pool.submit(peak_rss_mb).result() for pool in pools]
    return _side([run[0] for run in runs], peaks[0]), _side([run[1] for run in runs], peaks[1])


def _side(runs: Iterable[tuple[float, Facts]], peak: float) -> Side:
    seconds, facts = zip(*runs, strict=True)
    return Side(statistics.median(seconds), peak, facts[-1])


_work: Work | None = None


def _prepare(factory: Factory, arguments: Mapping[str, Any]) -> None:
    """In a new process: build the input."""
    global _work
    import torch

    torch.set_num_threads(THREADS)
    _work = factory(**arguments)


def _repeat() -> tuple[float, Facts]:
    assert _work is not None
    return _work()


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB.

    Linux's own high-water mark of the address space: `ru_maxrss` of a started process begins with
    that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def record(name: str, ours: Side, reference: Side, **facts: str | float) -> Record:
    """One line of a bench.

    Args:
        name: What was measured.
        ours: Our way.
        reference: The plain way.
        **facts: Further fields: sizes, differences.
    """
    return {
        "name": name,
        "ours": ours.seconds,
        "reference": reference.seconds,
        "unit": "s CPU",
        "peak_rss_mb": ours.peak_rss_mb,
        "reference_peak_rss_mb": reference.peak_rss_mb,
        **facts,
    }


def machine() -> str:
    """The processor's name and the number of cores, as `lscpu` says them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = multiprocessing.cpu_count()
    return f"{cores} x {names[0] if names else platform.processor() or platform.machine()}"
