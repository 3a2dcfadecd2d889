"""The files of a run folder, as types: metrics.jsonl, results.json, epochs.jsonl.

docs/formats.md explains them in words; a test holds the document to these models. Writers build
plain dicts and validate them here; readers get typed objects, or an `InputError` that names the
file and line. Events and epochs may carry further fields, which readers ignore; results may not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import InputError

Role = Literal["source", "target"]
Unit = Literal["patient", "group", "image"]


class Line(BaseModel):
    """One line of a JSON Lines file."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TrainingPlan(Line):
    """One training of the study event."""

    key: str = Field(description="<arm>/<stage>")
    stage: str
    rounds: int = Field(ge=1)
    epochs: int | None = Field(default=None, description="local epochs of a round")
    participants: list[str]


class SelectionPlan(Line):
    """One arm of the study event that selects images."""

    arm: str
    strategy: str
    budget: Literal["pooled", "per_site"]
    budgets: list[float] = Field(description="shares of the pool")


class StudyEvent(Line):
    """The first line: what is about to run."""

    event: Literal["study"]
    name: str
    digest: str = Field(description="SHA-256 of the canonical study, hexadecimal")
    seed: int
    sites: dict[str, Role]
    arms: list[str]
    trainings: list[TrainingPlan]
    selections: list[SelectionPlan] = Field(default=[], description="arms that select images")
    cells: list[str] = Field(default=[], description="classifiers: <arm>/<budget>/<architecture>")
    synthetic: bool = Field(description="whether any site's images are the phantom's")
    time: float | str = Field(description="seconds since 1970 or ISO 8601, UTC")


class EnrolEvent(Line):
    """What a site says it has."""

    event: Literal["enrol"]
    site: str
    counts: dict[str, int] = Field(description="images, patients, videos, train, val, test, masks")
    unit: Unit = Field(description="what splits and statistics go by")
    time: float | str


class ReplyEvent(Line):
    """One site's answer in one round of one training."""

    event: Literal["reply"]
    training: str
    stage: str
    round: int = Field(ge=1)
    rounds: int = Field(ge=1)
    site: str
    loss: float | None = None
    examples: int = Field(ge=0, description="training images that weigh in the mean")
    bytes_down: int = Field(ge=0, description="serialised tensors, server to site")
    bytes_up: int = Field(ge=0, description="serialised tensors, site to server")
    seconds: float
    metrics: dict[str, float] = {}
    time: float | str


class RoundEvent(Line):
    """A round, aggregated."""

    event: Literal["round"]
    training: str
    stage: str
    round: int = Field(ge=1)
    rounds: int = Field(ge=1)
    loss: float | None = Field(default=None, description="weighted mean of the sites'")
    val_loss: float | None = Field(default=None, description="on source validation")
    sites: list[str] = Field(description="whose replies were taken")
    refused: dict[str, str] = Field(default={}, description="site to reason")
    seconds: float
    time: float | str


class EvaluateEvent(Line):
    """One site's flat metrics."""

    event: Literal["evaluate"]
    site: str
    metrics: dict[str, float]
    time: float | str


class RefusedEvent(Line):
    """A site's answer that does not count; the reason is the server's, never the site's words."""

    event: Literal["refused"]
    training: str
    round: int = Field(ge=1)
    site: str
    reason: str
    time: float | str


class AssembleEvent(Line):
    """The ensemble was written."""

    event: Literal["assemble"]
    arm: str
    members: list[str]
    time: float | str


class PredictEvent(Line):
    """A site has a member's weights and has predicted with them."""

    event: Literal["predict"]
    member: str
    site: str
    bytes_down: int = Field(ge=0)
    seconds: float
    time: float | str


class StepEvent(Line):
    """One site's answer in one step of a stage that chooses images."""

    event: Literal["step"]
    stage: str
    key: str = Field(default="", description="the selection or classifier that is meant")
    step: str = ""
    round: int = Field(default=1, ge=1)
    site: str
    bytes_down: int = Field(ge=0)
    bytes_up: int = Field(ge=0)
    seconds: float
    metrics: dict[str, float] = {}
    time: float | str


class WaitingEvent(Line):
    """The study waits for experts; told when a number changes."""

    event: Literal["waiting"]
    stage: str
    sites: dict[str, str] = Field(description='site to "annotated of wanted"')
    time: float | str


class EndEvent(Line):
    """The last line."""

    event: Literal["end"]
    status: Literal["finished", "failed"]
    seconds: float
    time: float | str


Event = (
    StudyEvent
    | EnrolEvent
    | ReplyEvent
    | RefusedEvent
    | RoundEvent
    | AssembleEvent
    | PredictEvent
    | EvaluateEvent
    | StepEvent
    | WaitingEvent
    | EndEvent
)

EVENTS = (
    StudyEvent,
    EnrolEvent,
    ReplyEvent,
    RefusedEvent,
    RoundEvent,
    AssembleEvent,
    PredictEvent,
    EvaluateEvent,
    StepEvent,
    WaitingEvent,
    EndEvent,
)


class EpochLine(Line):
    """One local epoch at one site (sites/<name>/epochs.jsonl; stays there)."""

    training: str
    stage: str
    round: int = Field(ge=1)
    epoch: int = Field(ge=1, description="within the round")
    epochs: int | None = Field(default=None, description="how many the round has")
    loss: float
    val_loss: float | None = None
    seconds: float


class Part(BaseModel):
    """A part of results.json: nothing may be in it that is not named here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Summary(Part):
    """A site's mean of one metric over its test images."""

    mean: float
    ci_low: float | None = Field(description="95 %, cluster bootstrap; null for one patient")
    ci_high: float | None
    variance: float | None = Field(description="of the mean, over the bootstrap draws")
    n_images: int
    n_patients: int = Field(description="statistics units: patients, else groups, else images")


class SiteResult(Part):
    """One arm at one site. Metrics stand beside these fields, each a `Summary`.

    With a reference: dice, iou, hd95 (and <metric>@<class>), or where representations are scored
    recall_at_1, map, probe_balanced_accuracy, probe_auroc. Without: agreement, confidence, area.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Summary]

    role: Role
    unit: Unit
    reference: bool
    gap_closure: float | None = Field(
        default=None, description="of Dice, (ours - lower) / (upper - lower), at targets"
    )

    @property
    def metrics(self) -> dict[str, Summary]:
        """The metrics by name, in the order they were written."""
        return dict(self.__pydantic_extra__)


class TargetSummary(Part):
    """Mean over the target sites that have a reference, each weighing the same."""

    mean: float
    ci_low: float | None
    ci_high: float | None
    n_sites: int


class ArmResult(Part):
    """One arm everywhere."""

    sites: dict[str, SiteResult]
    targets: dict[str, TargetSummary] = Field(description="by metric; empty without references")


class PairedResult(Part):
    """Two arms at one site."""

    difference: float = Field(description="arm - other, mean over images")
    p: float = Field(ge=0, le=1, description="two-sided Wilcoxon over the clusters' means")
    z: float = Field(description="the same test, signed: > 0 where the ranks favour the first arm")
    n: int = Field(description="clusters")


class Comparison(Part):
    """The main arm against another, over all sites with a reference."""

    arm: str
    other: str
    metric: str
    sites: dict[str, PairedResult]
    difference: float | None = Field(description="mean over the target sites")
    p: float | None = Field(description="Stouffer over the target sites, weights sqrt(n)")
    p_holm: float | None = Field(description="Holm over the other arms, within the metric")


class Bytes(Part):
    """Serialised tensor bytes of one site."""

    down: int = Field(ge=0, description="server to site")
    up: int = Field(ge=0, description="site to server")


class Traffic(Part):
    """What moved."""

    sites: dict[str, Bytes]
    total_bytes: int


class Interval(Part):
    """A number over all target sites, from sums and histograms, or a mean over them."""

    mean: float
    ci_low: float | None = None
    ci_high: float | None = None


class CellResult(Part):
    """A classifier after an arm's selection at a budget, on the targets' test images (P2 Table 2).

    Metrics are accuracy, balanced_accuracy and auroc.
    """

    arm: str
    budget: float = Field(ge=0, le=1, description="share of the pool that was annotated")
    architecture: str
    sites: dict[str, dict[str, Summary]] = Field(description="site to metric")
    pooled: dict[str, Interval] = Field(
        description="metric: over all test images, from counts and 256-cell histograms; the "
        "interval from the sites' bootstrap variances"
    )
    versus: dict[str, PairedResult] = Field(
        default={}, description="correctness, the leading arm minus this one, by site"
    )
    difference: float | None = Field(default=None, description="mean of these over the sites")
    p: float | None = Field(default=None, description="Stouffer over them, weights sqrt(n)")
    p_holm: float | None = Field(
        default=None, description="Holm over the other arms, within budget and architecture"
    )


class SelectedResult(Part):
    """What an arm chose."""

    arm: str
    strategy: str
    words: str = Field(description="how it chose over the sites")
    pool: dict[str, int] = Field(description="images by site")
    selected: dict[str, dict[str, int]] = Field(description="budget in percent to site to images")
    overlap: dict[str, float] = Field(
        default={}, description="budget to the share of the leading arm's choice that it chose too"
    )
    embedding: dict[str, dict[str, float]] = Field(
        default={}, description="site to mean_angle (radians) and effective_rank"
    )


class ReconstructionResult(Part):
    """P2 Tables 1 and 4 and Fig. 1: numbers and histograms of one site."""

    role: Role
    images: int
    metrics: dict[str, float]
    similarity: dict[str, list[int]] = Field(
        description="before, after (a source: before): counts over 64 cells of [-1, 1]"
    )
    grey: dict[str, list[int]] = Field(description="before, after: counts of the 256 grey levels")


class SelectionResults(Part):
    """The second half of a study."""

    main: str = Field(description="the selecting arm compared against each other")
    labels: list[str]
    test: dict[str, dict[str, int]] = Field(description="site to label to test images")
    cells: list[CellResult]
    selected: list[SelectedResult]
    reconstruction: dict[str, ReconstructionResult] = {}
    memorisation: dict[str, float] = Field(
        default={}, description="features, correlation: shares; samples; threshold"
    )


class Results(Part):
    """results.json."""

    format: Literal[1] = 1
    study: str
    digest: str
    seed: int
    synthetic: bool
    machine: dict[str, str | int | float | bool | None]
    main: str = Field(description="the segmenting arm compared against each other, or empty")
    arms: dict[str, ArmResult]
    comparisons: list[Comparison]
    selection: SelectionResults | None = Field(
        default=None, description="what the sites chose and what the classifiers gained"
    )
    traffic: Traffic
    notes: list[str]


_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
_EPOCH: TypeAdapter[EpochLine] = TypeAdapter(EpochLine)

T = TypeVar("T")


def parse_event(line: str) -> Event:
    """One line of metrics.jsonl.

    Raises:
        ValidationError: If it is none of `EVENTS`.
    """
    return _EVENT.validate_json(line)


def read_events(path: Path) -> list[Event]:
    """All events of a metrics.jsonl, in order.

    Raises:
        InputError: If the file is missing, or with every line that is no event.
    """
    return _read_lines(path, _EVENT)


def read_epochs(path: Path) -> list[EpochLine]:
    """All lines of an epochs.jsonl, in order.

    Raises:
        InputError: If the file is missing, or with every line that is no epoch.
    """
    return _read_lines(path, _EPOCH)


def read_results(path: Path) -> Results:
    """A results.json.

    Raises:
        InputError: If the file is missing or not of this format; all problems at once.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError([f"{path}: {text}" for text in _plain(error)]) from error


def _read_lines(path: Path, adapter: TypeAdapter[T]) -> list[T]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    lines = text.split("\n")
    # A killed run may leave half a line at the end; the resumed run writes that event again.
    complete = lines[:-1]
    found: list[T] = []
    problems: list[str] = []
    for number, line in enumerate(complete, start=1):
        if not line.strip():
            continue
        try:
            found.append(adapter.validate_json(line))
        except ValidationError as error:
            problems += [f"{path}, line {number}: {text}" for text in _plain(error)]
    if problems:
        raise InputError(problems)
    return found


def _plain(error: ValidationError) -> Sequence[str]:
    """Pydantic's problems as sentences."""
    return [
        f"{'.'.join(str(step) for step in problem['loc']) or 'the line'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    ]


def dump_line(event: dict[str, object]) -> str:
    """An event or epoch as its line, without the newline; refuses what a reader would refuse.

    Raises:
        ValidationError: If it is no event (or epoch).
    """
    line = json.dumps(event, ensure_ascii=False)
    if "event" in event:
        _EVENT.validate_json(line)
    else:
        _EPOCH.validate_json(line)
    return line
