"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere.

Both engines write `metrics.jsonl`, and each site its own `epochs.jsonl`; this reads them as they
grow and touches nothing.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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
from scripts.standing import EXPERTS, Standing, Standings, when

console = Console(highlight=False, soft_wrap=True)

Callback = Callable[[int, int], None]


SEEN_S = 10.0
"""How often it is asked which sites are there."""
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
    """Follows a run folder while a block runs.

    Args:
        folder: The run's.
        study: Its study.
        seen: On a consortium: of each site when it was last heard of. How the sites stand is then
            told too, from the run's beginning.
    """

    def __init__(
        self, folder: Path, study: Study, seen: Callable[[], Mapping[str, str]] | None = None
    ) -> None:
        self.study = study
        self.seen, self.heard, self.asked = seen, dict[str, str](), -math.inf
        self.standings = Standings.of([], study.sites)
        self.progress = Progress(make_plan(study), denoising=study.reconstruct.steps)
        self.events = Tail(folder / "metrics.jsonl")
        self.epochs = {site: Tail(folder / "sites" / site / "epochs.jsonl") for site in study.sites}
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        # What an earlier command did counts as done, but is not told again.
        before = 0.0
        for event in self.events.lines():
            if event["event"] == "study":
                before = self.progress.done_work()
            self.progress.take(event)
            self.standings.take(event)
        for tail in self.epochs.values():
            for _ in tail.lines():
                pass
        if seen is None:
            self.progress.begin()
        else:
            # It goes on meanwhile: its own pace is known.
            self.progress.go_on(before, self.standings.worked_s)
        self.table = (
            RichLive(console=console, refresh_per_second=4, get_renderable=self.render)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Live":
        self._listen()
        if self.table is not None:
            self.table.start()
        elif self.seen is not None:
            for one in self.standings.sites.values():
                say(" ".join(self._site(one)))
            say(self._left())
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
                    self.standings.take(event)
                self._show(event, row)
            if not last:
                self._listen()
            if last:
                return

    def _listen(self) -> None:
        """Ask now and then which sites are there."""
        if self.seen is not None and time.monotonic() - self.asked > SEEN_S:
            self.heard, self.asked = dict(self.seen()), time.monotonic()

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
        if self.seen is not None:
            room = max(3, room - len(self.standings.sites) - 4)
        table = Table(title=f"{self.study.name} · seed {self.study.seed}", title_justify="left")
        # A consortium's sites keep their epochs to themselves; the center sees rounds.
        hidden = {"epoch"} if self.seen is not None else set()
        names = ("site", "stage", "round", "epoch", "loss", "MB moved", "time")
        shown = [place for place, name in enumerate(names) if name not in hidden]
        for place in shown:
            left = names[place] in ("site", "stage")
            table.add_column(names[place], justify="left" if left else "right", no_wrap=True)
        for row in list(self.progress.rows.values())[-room:]:
            cells = _cells(row)
            table.add_row(*(cells[place] for place in shown), style="dim" if row.done else "")
        if self.seen is None:
            return Group(table, self._foot())
        return Group(self._standing(), table, self._foot())

    def _standing(self) -> Table:
        table = Table()
        for name in ("site", "last seen", "last answer", "waited for"):
            table.add_column(name, no_wrap=name != "waited for")
        for one in self.standings.sites.values():
            answer = f"{one.at} ({when(one.answered)})" if one.at else ""
            table.add_row(one.site, self.heard.get(one.site, ""), answer, _waits(one))
        return table

    def _site(self, one: Standing) -> list[str]:
        """How a site stands, as parts of a line."""
        heard = self.heard.get(one.site)
        return [
            f"{one.site}:",
            f"last seen {heard};" if heard else "",
            f"{one.at} at {when(one.answered)};" if one.at else "has answered nothing yet;",
            _waits(one) or "is not waited for",
        ]

    def _left(self) -> str:
        """How far it is, and when it will have ended."""
        return f"{self.progress.share:.0%} done{self._rest()}"

    def _rest(self) -> str:
        left = self.progress.left_s
        if self.standings.stage == EXPERTS:
            return f", waits for experts since {when(self.standings.since)}"
        if left is None:
            return ""
        end = datetime.now(UTC) + timedelta(seconds=left)
        return f", about {clock(left)} left, until {when(end)}"

    def _foot(self) -> RenderableType:
        progress = self.progress
        words = Text.assemble(
            (f" {progress.share:.0%}", "bold"),
            f"  {clock(progress.elapsed_s)} elapsed",
            self._rest(),
            f"  {progress.moved / 1e6:,.1f} MB moved",
        )
        grid = Table.grid()
        grid.add_row(ProgressBar(total=1.0, completed=progress.share, width=32), words)
        return grid


def _waits(one: Standing) -> str:
    since = f" (since {when(one.since)})" if one.since else ""
    return f"waited for: {one.waits}{since}" if one.waits else one.gone


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
