"""What happens, as it happens: one JSON object a line, and TensorBoard's scalars beside it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from common.lines import append_line


class Tracker(Protocol):
    """Gets every event of a run; the loop knows no tracker by name."""

    def emit(self, event: str, **fields: Any) -> None:
        """Take note of one event (docs/formats.md lists them)."""

    def close(self) -> None:
        """Write what is still held back."""


class JsonLines:
    """`RUN/metrics.jsonl`: appended line by line, complete after every event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def emit(self, event: str, **fields: Any) -> None:
        """Append one line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self.path, {"event": event, **fields, "time": now})

    def close(self) -> None:
        """Nothing is held back."""


class TensorBoard:
    """`RUN/tensorboard/`: losses by training and site, over rounds."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def emit(self, event: str, **fields: Any) -> None:
        """Write a reply's and a round's losses as scalars."""
        if event == "reply":
            tag = f"{fields['training']}/loss/{fields['site']}"
            self.writer.add_scalar(tag, fields["loss"], fields["round"])
        elif event == "round" and fields.get("val_loss") is not None:
            self.writer.add_scalar(
                f"{fields['training']}/val_loss", fields["val_loss"], fields["round"]
            )

    def close(self) -> None:
        """Flush the event file."""
        self.writer.close()


class Both:
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def emit(self, event: str, **fields: Any) -> None:
        """Pass the event on."""
        for tracker in self.trackers:
            tracker.emit(event, **fields)

    def close(self) -> None:
        """Close all."""
        for tracker in self.trackers:
            tracker.close()
