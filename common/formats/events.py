"""metrics.jsonl and epochs.jsonl, line by line."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.formats.names import Role, Unit


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


class UpdateLine(Line):
    """How far one reply's weights moved, and whether with the others'."""

    norm: float = Field(ge=0, description="share of the length of the weights that went out")
    agreement: float | None = Field(
        default=None, description="cosine with the other sites' updates; none without another"
    )


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
    updates: dict[str, UpdateLine] = Field(default={}, description="site to how its weights moved")
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
    """The study waits: for experts, told when something changes; for a site, told each minute."""

    event: Literal["waiting"]
    stage: str
    sites: dict[str, str] = Field(
        description='site to "annotated of wanted", or to since when it is asked or not heard'
    )
    time: float | str


class SiteEvent(Line):
    """A site leaves the study or is away, and comes back: from the next round on."""

    event: Literal["site"]
    site: str
    change: Literal["dropped", "added", "away", "back"]
    reason: str = Field(
        default="", description="the coordinator's words; of one that is away the server's"
    )
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
    | SiteEvent
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
    SiteEvent,
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
