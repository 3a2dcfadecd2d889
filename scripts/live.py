"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere.

Both engines write `metrics.jsonl`; this reads it as it grows.
"""

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from common.config.study import Study

console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one plain line."""
    console.print(line, markup=False)


class Live:
    """Follows a run folder's events while a block runs."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.path = folder / "metrics.jsonl"
        self.study = study
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.position = self.path.stat().st_size if self.path.exists() else 0
        self.rows: dict[tuple[str, str], list[str]] = {}
        self.moved = 0
        self.table = RichLive(console=console, refresh_per_second=4) if console.is_terminal else None

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
            if self.path.exists():
                with self.path.open(encoding="utf-8") as file:
                    file.seek(self.position)
                    while line := file.readline():
                        if not line.endswith("\n"):
                            break  # a line that is still being written
                        self.position = file.tell()
                        self._show(json.loads(line))
            if last:
                return

    def _show(self, event: dict[str, Any]) -> None:
        """Take note of one event and show it."""
        kind = event["event"]
        if kind == "reply":
            megabytes = (event["bytes_down"] + event["bytes_up"]) / 1e6
            self.moved += event["bytes_down"] + event["bytes_up"]
            self._row(
                event["site"],
                event["training"],
                f"{event['round']}/{event['rounds']}",
                f"{event['loss']:.4f}",
                f"{megabytes:.1f}",
                f"{event['seconds']:.0f}",
            )
        elif kind == "round" and event["val_loss"] is not None:
            self._line(f"{event['training']} round {event['round']}: validation DiceBCE "
                       f"{event['val_loss']:.4f}")
        elif kind == "refused":
            self._line(f"{event['training']} round {event['round']}: {event['site']} refused: "
                       f"{event['reason']}")
        elif kind == "enrol":
            counts = event["counts"]
            self._line(
                f"enrolled {event['site']}: {counts['images']} images, split by {event['unit']} "
                f"({counts['train_images']} train, {counts['val_images']} validation, "
                f"{counts['test_images']} test)"
            )
        elif kind == "predict":
            self._row(
                event["site"], "evaluate " + event["member"], "", "",
                f"{event['bytes_down'] / 1e6:.1f}", f"{event['seconds']:.0f}",
            )  # fmt: skip

    def _row(self, site: str, stage: str, round_: str, loss: str, mb: str, seconds: str) -> None:
        if self.table is None:
            numbers = [f"round {round_}" if round_ else "", f"loss {loss}" if loss else ""]
            say("  ".join(x for x in [f"{stage:<36}", f"{site:<14}", *numbers,
                                      f"{mb} MB", f"{seconds} s"] if x))
            return
        self.rows[site, stage] = [site, stage, round_, loss, mb, seconds]
        self.table.update(self._table())

    def _line(self, text: str) -> None:
        if self.table is None:
            say(text)
        else:
            self.table.console.print(text, markup=False)

    def _table(self) -> Table:
        table = Table(title=f"{self.study.name} · seed {self.study.seed}", title_justify="left")
        for name in ("site", "stage", "round", "loss", "MB moved", "s"):
            left = name in ("site", "stage")
            table.add_column(name, justify="left" if left else "right")
        for row in list(self.rows.values())[-20:]:
            table.add_row(*row)
        return table
