"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere.

Both engines write `metrics.jsonl`, and each site its own `epochs.jsonl`; this reads them as they
grow and touches nothing.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.config.study import Study
from common.plan import make_plan
from scripts.progress import Progress, Row, clock

console = Console(highlight=False, soft_wrap=True)

Callback = Callable[[int, int], None]


WIDTH = 170
"""Columns of a table where there is no terminal."""


def show(table: Table) -> None:
    """Print a table; where there is no terminal, as wide as it needs to be."""
    wide = console if console.is_terminal else Console(width=WIDTH, highlight=False)
    wide.print(table)


def say(line: str) -> None:
    """Print one plain line."""
    console.print(line, markup=False)


class Steps:
    """Progress of what comes before a study: a bar on a terminal, one line elsewhere."""

    @contextmanager
    def step(self, title: str) -> Iterator[Callback]:
        """One step; the callback takes (done, total). What takes no time says nothing."""
        began, last = time.monotonic(), 0
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(),
            )  # fmt: skip
            with Bars(*columns, console=console, transient=True) as bars:
                task = bars.add_task(title, total=None)
                yield lambda done, total: bars.update(task, completed=done, total=total)
            return

        def note(done: int, total: int) -> None:
            nonlocal last
            last = total

        yield note
        if last:
            say(f"{title}: {last} done in {clock(time.monotonic() - began)}")


class Tail:
    """The complete JSON lines that a growing file has got since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """New lines; one that is still being written waits for the next look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            while line := file.readline():
                if not line.endswith(b"\n"):
                    break
                self.position = file.tell()
                yield json.loads(line)


class Live:
    """Follows a run folder while a block runs."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.study = study
        self.progress = Progress(make_plan(study), denoising=study.reconstruct.steps)
        self.events = Tail(folder / "metrics.jsonl")
        self.epochs = {site: Tail(folder / "sites" / site / "epochs.jsonl") for site in study.sites}
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        # What an earlier command did counts as done, but is not told again.
        for event in self.events.lines():
            self.progress.take(event)
        for tail in self.epochs.values():
            for _ in tail.lines():
                pass
        self.progress.begin()
        self.table = (
            RichLive(console=console, refresh_per_second=4, get_renderable=self.render)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Live":
        if self.table is not None:
            self.table.start()
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.done.set()
        self.thread.join(timeout=5)
        if self.table is not None:
            self.table.stop()

    def _follow(self) -> None:
        while True:
            last = self.done.wait(0.3)
            with self.lock:
                for site, tail in self.epochs.items():
                    for line in tail.lines():
                        self.progress.take_epoch(site, line)
            for event in self.events.lines():
                with self.lock:
                    row = self.progress.take(event)
                self._show(event, row)
            if last:
                return

    def _show(self, event: dict[str, Any], row: Row | None) -> None:
        """Tell one event: in a line of its own, or in the table."""
        kind = event["event"]
        if kind in ("reply", "predict", "step") and row is not None:
            if self.table is None:
                self._tell(row, event)
        elif kind == "waiting":
            places = ", ".join(f"{site} {words}" for site, words in event["sites"].items())
            self._line(f"waiting for {event['stage']}: {places}")
        elif kind == "round" and event["val_loss"] is not None:
            what = "cross-entropy" if event["stage"] == "source_classifier" else "DiceBCE"
            self._line(f"{event['training']} round {event['round']}: validation {what} "
                       f"{event['val_loss']:.4f}")  # fmt: skip
        elif kind == "refused":
            self._line(f"{event['training']} round {event['round']}: {event['site']} refused: "
                       f"{event['reason']}")  # fmt: skip
        elif kind == "site":
            why = f": {event['reason']}" if event["reason"] else ""
            self._line(f"{event['site']} is {event['change']}{why}")
        elif kind == "enrol":
            counts = event["counts"]
            self._line(
                f"enrolled {event['site']}: {counts['images']} images, split by {event['unit']} "
                f"({counts['train_images']} train, {counts['val_images']} validation, "
                f"{counts['test_images']} test)"
            )

    def _tell(self, row: Row, event: dict[str, Any]) -> None:
        moved = (event["bytes_down"] + event.get("bytes_up", 0)) / 1e6
        what = f"evaluate {event['member']}" if event["event"] == "predict" else row.training
        numbers = [f"{what:<36}", f"{row.site:<14}"]
        if event["event"] == "reply":
            numbers += [f"round {row.round}/{row.rounds}", f"loss {event['loss']:.4f}"]
        numbers += [f"{moved:.1f} MB", clock(event["seconds"])]
        left = self.progress.left_s
        rest = f", {clock(left)} left" if left is not None else ""
        say("  ".join([*numbers, f"({self.progress.share:.0%}{rest})"]))

    def _line(self, text: str) -> None:
        (self.table.console if self.table else console).print(text, markup=False)

    def render(self) -> RenderableType:
        """The table and the line below it, as they are now."""
        with self.lock:
            return self._render()

    def _render(self) -> RenderableType:
        room = max(6, console.size.height - 8)
        table = Table(title=f"{self.study.name} · seed {self.study.seed}", title_justify="left")
        for name in ("site", "stage", "round", "epoch", "loss", "MB moved", "time"):
            left = name in ("site", "stage")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for row in list(self.progress.rows.values())[-room:]:
            table.add_row(*_cells(row), style="dim" if row.done else "")
        return Group(table, self._foot())

    def _foot(self) -> RenderableType:
        progress, left = self.progress, self.progress.left_s
        words = Text.assemble(
            (f" {progress.share:.0%}", "bold"),
            f"  {clock(progress.elapsed_s)} elapsed",
            f", about {clock(left)} left" if left is not None else "",
            f"  {progress.moved / 1e6:,.1f} MB moved",
        )
        grid = Table.grid()
        grid.add_row(ProgressBar(total=1.0, completed=progress.share, width=32), words)
        return grid


def _cells(row: Row) -> list[str]:
    return [
        row.site,
        row.training + (" ✓" if row.done else ""),
        f"{row.round}/{row.rounds}",
        f"{row.epoch}/{row.epochs}" if row.epochs else "",
        "refused" if row.refused else "" if row.loss is None else f"{row.loss:.4f}",
        f"{row.bytes / 1e6:.1f}",
        clock(row.seconds) if row.seconds else "",
    ]
