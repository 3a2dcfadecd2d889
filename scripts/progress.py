"""How far a run is: what its events and the sites' own epochs say, and how long the rest takes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.plan import Plan, Training

COST = {
    "mim": 1.0, "contrastive": 1.4, "adapt": 3.5,
    "source_classifier": 0.5, "diffusion": 2.5, "sphere": 2.0, "classify": 0.5,
}  # fmt: skip
"""Time of one image in a stage, where it differs from a fine-tuning's (measured roughly)."""

REDRAW = 1.0
"""One step of denoising one image, relative to one image of fine-tuning."""

STEP = 16
"""Images of a step where a stage names none."""

PREDICT = 0.1
"""One member's predictions at one site, relative to an epoch of fine-tuning there."""


@dataclass
class Row:
    """One site in one training."""

    site: str
    training: str
    round: int
    rounds: int
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    bytes: int = 0
    seconds: float = 0.0
    done: bool = False
    refused: str = ""


@dataclass
class Progress:
    """Takes in events and epochs; knows rows, bytes, the share done and the time left.

    Args:
        plan: What will run.
        clock: Seconds; for tests.
        denoising: Steps in which an image is redrawn.

    Attributes:
        rows: By (site, training), the last one to change at the end.
        moved: Tensor bytes since the start of this command.
        images: Training images of each site, from its enrolment.
    """

    plan: Plan
    clock: Callable[[], float] = time.monotonic
    denoising: int = 20
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    moved: int = 0
    images: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._replied: dict[tuple[str, str], set[int]] = {}
        self._ended: set[str] = set()
        self._predicted: set[tuple[str, str]] = set()
        self._redrawn: set[str] = set()
        self._judged: set[tuple[str, str]] = set()
        self._before = 0.0

    def begin(self) -> None:
        """From here on counts as this command's work; what was taken in before was another's."""
        self._before = self.done_work()
        self.moved = 0
        self.started = self.clock()

    def go_on(self, before: float, worked_s: float) -> None:
        """What was done since some work was done counts, with the time that it took.

        Args:
            before: The work that was done then.
            worked_s: Seconds since, without those in which nothing could be done.
        """
        self._before = before
        self.started = self.clock() - worked_s

    def take(self, event: Mapping[str, Any]) -> Row | None:
        """Take in one event of metrics.jsonl; gives the row that it changed, if any."""
        match event["event"]:
            case "enrol":
                self.images[event["site"]] = int(event["counts"]["train_images"])
            case "reply":
                return self._reply(event)
            case "refused":
                row = self._row(event["site"], event["training"], event["round"])
                row.refused = event["reason"]
                return row
            case "round":
                settings = self.plan.trainings.get(event["training"])
                if settings and event["round"] >= settings.settings.rounds:
                    self._ended.add(event["training"])
            case "predict":
                self.moved += event["bytes_down"]
                self._predicted.add((event["member"], event["site"]))
                return self._predicted_one(event)
            case "step":
                return self._step(event)
        return None

    def take_epoch(self, site: str, line: Mapping[str, Any]) -> Row | None:
        """Take in one line of a site's own epochs.jsonl."""
        training = self.plan.trainings.get(line["training"])
        if training is None or line["round"] in self._rounds(training.key, site):
            return None
        row = self._row(site, training.key, line["round"])
        row.epoch, row.loss = line["epoch"], line["loss"]
        row.epochs = line.get("epochs", training.settings.epochs)
        row.done = False
        return row

    def _reply(self, event: Mapping[str, Any]) -> Row:
        moved = event["bytes_down"] + event["bytes_up"]
        self.moved += moved
        self._replied.setdefault((event["training"], event["site"]), set()).add(event["round"])
        row = self._row(event["site"], event["training"], event["round"])
        row.rounds = event["rounds"]
        row.loss, row.bytes, row.seconds = event["loss"], row.bytes + moved, event["seconds"]
        row.epoch = row.epochs
        row.done = event["round"] >= event["rounds"]
        return row

    def _step(self, event: Mapping[str, Any]) -> Row:
        """The steps of a stage that chooses images are one row a site."""
        site, stage, step = event["site"], event["stage"], event["step"]
        moved = event["bytes_down"] + event["bytes_up"]
        self.moved += moved
        if step == "redraw":
            self._redrawn.add(site)
        if stage == "classify" and event["key"]:
            self._judged.add((event["key"], site))
        row = self._row(site, " ".join(part for part in (stage, event["key"], step) if part),
                        event["round"])  # fmt: skip
        row.rounds, row.done = event["round"], True
        row.bytes, row.seconds = row.bytes + moved, event["seconds"]
        return row

    def _predicted_one(self, event: Mapping[str, Any]) -> Row:
        """All members of a site are one row; its rounds are the members."""
        site = event["site"]
        members = {member for member, of_site in self._predicted if of_site == site}
        row = self._row(site, "evaluate", len(members))
        row.rounds = sum(site in sites for sites in self.plan.predictors.values())
        row.bytes, row.seconds = row.bytes + event["bytes_down"], event["seconds"]
        row.done = row.round >= row.rounds
        return row

    def _rounds(self, training: str, site: str) -> set[int]:
        """Rounds that a site has answered."""
        return self._replied.get((training, site), set())

    def _row(self, site: str, training: str, round_: int) -> Row:
        row = self.rows.pop((site, training), None) or Row(site, training, round_, 0)
        row.round = round_
        known = self.plan.trainings.get(training)
        if known is not None:
            row.rounds = known.settings.rounds
        self.rows[site, training] = row
        return row

    def _size(self, training: Training, site: str) -> float:
        """Work of one round at one site, in thousands of images of a fine-tuning."""
        settings = training.settings
        images = self.images.get(site, 100) * (training.budget or 1)
        seen = settings.steps * (settings.batch or STEP) if settings.steps else None
        return COST.get(training.stage, 1.0) * (seen or settings.epochs * images) / 1000

    def _redraw(self, site: str) -> float:
        """Work of redrawing a site's pool."""
        return REDRAW * self.denoising * self.images.get(site, 100) / 1000

    def total_work(self) -> float:
        """All rounds of all trainings, what is redrawn, and the evaluation."""
        trained = sum(
            self._size(training, site) * training.settings.rounds
            for training in self.plan.trainings.values()
            for site in training.participants
        )
        if self.plan.reconstructing:
            trained += sum(self._redraw(site) for site in self.images)
        return trained + PREDICT * sum(
            self.images.get(site, 100) / 1000
            for sites in self.plan.predictors.values()
            for site in sites
        )

    def done_work(self) -> float:
        """What of it is done; an adaptation that stopped early is done."""
        work = 0.0
        for training in self.plan.trainings.values():
            over = self._is_over(training)
            for site in training.participants:
                rounds = self._rounds(training.key, site)
                done = float(training.settings.rounds if over else len(rounds))
                row = self.rows.get((site, training.key))
                if row and row.epochs and not over and row.round not in rounds:
                    done += row.epoch / row.epochs
                work += self._size(training, site) * done
        work += sum(self._redraw(site) for site in self._redrawn)
        return work + PREDICT * sum(
            self.images.get(site, 100) / 1000 for _, site in self._predicted
        )

    def _is_over(self, training: Training) -> bool:
        """Whether a later training has begun, or all its rounds are in."""
        if training.key in self._ended:
            return True
        order = list(self.plan.trainings)
        later = set(order[order.index(training.key) + 1 :])
        if training.selection or training.stage == "sphere":
            return bool(self._judged)
        return bool(self._predicted) or any(key in later for key, _ in self._replied)

    @property
    def share(self) -> float:
        """Part of the whole run that is done, 0 to 1."""
        total = self.total_work()
        return min(1.0, self.done_work() / total) if total else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since this command began."""
        return self.clock() - self.started

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at this command's pace; None while there is no pace."""
        here = self.done_work() - self._before
        if here <= 0:
            return None
        return self.elapsed_s * max(0.0, self.total_work() - self.done_work()) / here


def clock(seconds: float) -> str:
    """12 s, 3:05 min, 2:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
