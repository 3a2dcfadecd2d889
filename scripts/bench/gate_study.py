"""What the gate's policy costs a whole study in a simulation: the demo, in one process."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context, Message

from clients import gated
from common.config.load import load_study
from scripts.bench.measure import Record, peak_rss_mb
from scripts.simulate import Engine, run_study_here

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.toml"


class Spent:
    """CPU seconds of everything a message goes through at a site but the site's own code."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.messages = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Have every message of this process counted."""
        original = gated.answer

        def answer(message: Message, context: Context, run: gated.Run) -> Message:
            own = 0.0

            def timed(message: Message, context: Context) -> Message:
                nonlocal own
                since = time.process_time()
                try:
                    return run(message, context)
                finally:
                    own += time.process_time() - since

            since = time.process_time()
            try:
                return original(message, context, timed)
            finally:
                self.seconds += time.process_time() - since - own
                self.messages += 1

        gated.answer = answer
        try:
            yield
        finally:
            gated.answer = original


def share_of_a_study(study_file: Path = DEMO, *, seed: int = 0) -> Record:
    """A study from its phantom to its report, and the part of it that is not the gate's.

    Args:
        study_file: The study.
        seed: Its seed.
    """
    study = load_study(study_file, [f"seed={seed}"])
    spent = Spent()
    with tempfile.TemporaryDirectory(prefix="gate-study-") as folder:
        since = time.process_time()
        with contextlib.redirect_stdout(sys.stderr), spent.counted():
            run_study_here(
                study, Engine.inprocess, Path(folder), Path(folder) / "run", resume=False, jobs=1
            )
        whole = time.process_time() - since
    return {
        "name": f"gate in the study {study.name}",
        "ours": whole,
        "reference": whole - spent.seconds,
        "unit": "s CPU",
        "peak_rss_mb": peak_rss_mb(),
        "messages": spent.messages,
        "seed": seed,
    }
