"""What the report shows, computed from the events and results: no HTML here, no pixel anywhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from common.formats import (
    Comparison,
    EndEvent,
    EnrolEvent,
    Event,
    PredictEvent,
    RefusedEvent,
    ReplyEvent,
    Results,
    RoundEvent,
    StepEvent,
    StudyEvent,
    WaitingEvent,
)
from server.report_figures import Curve

ARMS = {
    "ensemble": "both branches, fused by the study's confidence",
    "ensemble_entropy": "both branches, fused by entropy confidence",
    "ensemble_margin": "both branches, fused by margin confidence",
    "ensemble_mean": "both branches, plain mean",
    "ensemble_adapted": "the ensemble after adaptation on the targets' unlabelled images",
    "mim": "generative branch alone: masked-image pretraining at the targets",
    "contrastive": "contrastive branch alone: MT-NXent pretraining at the targets",
    "simclr": "contrastive branch with no frame masked (SimCLR)",
    "contrastive_content": "contrastive branch, masking frames by their content, not their number",
    "untrained": "an encoder at its random start",
    "lower": "source only, no pretraining: the lower bound",
    "lower_plain": "source only, no augmentation",
    "lower_adapted": "source only, after adaptation on the targets' unlabelled images",
    "upper": "trained on the targets' own masks: the upper bound",
    "homogeneous_mim": "two generative branches, fused",
    "homogeneous_contrastive": "two contrastive branches of one frame gap, fused",
    "homogeneous_mixed": "two contrastive branches of two frame gaps, fused",
}

METRICS = {
    "dice": ("Dice", 3),
    "iou": ("IoU", 3),
    "hd95": ("HD95, px", 1),
    "recall_at_1": ("Recall at 1", 3),
    "map": ("Mean average precision", 3),
    "probe_balanced_accuracy": ("Probe balanced accuracy", 3),
    "probe_auroc": ("Probe AUROC", 3),
}
"""Metrics against something known: in words with their unit, and digits. The first that a study has
is the one it is told in."""


@dataclass
class Log:
    """The events, sorted out. A round repeated after a kill counts once, as it went last.

    `stages` are those that had an answer, in the order of their first.
    """

    study: StudyEvent | None = None
    enrolled: dict[str, EnrolEvent] = field(default_factory=dict)
    replies: dict[tuple[str, int, str], ReplyEvent] = field(default_factory=dict)
    rounds: dict[tuple[str, int], RoundEvent] = field(default_factory=dict)
    refused: dict[tuple[str, int, str], str] = field(default_factory=dict)
    predicted: dict[tuple[str, str], PredictEvent] = field(default_factory=dict)
    steps: dict[tuple[str, str, str, int, str], StepEvent] = field(default_factory=dict)
    waiting: list[WaitingEvent] = field(default_factory=list)
    stages: dict[str, None] = field(default_factory=dict)
    end: EndEvent | None = None


def sort_out(events: Iterable[Event]) -> Log:
    """The last word on everything in the events."""
    log = Log()
    for event in events:
        if isinstance(event, StudyEvent):
            log.study, log.end = event, None
        elif isinstance(event, EnrolEvent):
            log.enrolled[event.site] = event
        elif isinstance(event, ReplyEvent):
            log.stages.setdefault(event.stage)
            log.replies[event.training, event.round, event.site] = event
        elif isinstance(event, RoundEvent):
            log.rounds[event.training, event.round] = event
            for site, reason in event.refused.items():
                log.refused[event.training, event.round, site] = reason
        elif isinstance(event, RefusedEvent):
            log.refused[event.training, event.round, event.site] = event.reason
        elif isinstance(event, PredictEvent):
            log.predicted[event.member, event.site] = event
        elif isinstance(event, StepEvent):
            log.stages.setdefault(event.stage)
            log.steps[event.stage, event.key, event.step, event.round, event.site] = event
        elif isinstance(event, WaitingEvent) and event.stage == "annotate":
            log.waiting.append(event)
        elif isinstance(event, EndEvent):
            log.end = event
    return log


def ordered(study: StudyEvent) -> list[str]:
    """The sites as the report lists them: sources, then targets, each in the study's order."""
    return sorted(study.sites, key=lambda site: study.sites[site] != "source")


def curves(log: Log, sites: Sequence[str]) -> list[Curve]:
    """Every training that has begun, in the order of the study.

    Classifiers on selected images are many and short; they have a figure of their own.
    """
    found = []
    keys = dict.fromkeys(r.training for r in log.replies.values() if r.stage != "classify")
    for key in keys:
        losses = {
            site: sorted(
                (reply.round, reply.loss)
                for (training, _, of), reply in log.replies.items()
                if training == key and of == site and reply.loss is not None
            )
            for site in sites
        }
        rounds = sorted(
            (event for (training, _), event in log.rounds.items() if training == key),
            key=lambda event: event.round,
        )
        found.append(Curve(key, {s: points for s, points in losses.items() if points}, rounds))
    return found


@dataclass(frozen=True)
class Refusal:
    """A reply that was not taken."""

    training: str
    round: int
    site: str
    reason: str


def refusals(log: Log) -> list[Refusal]:
    """All replies that were refused, in order."""
    return [Refusal(*where, reason) for where, reason in log.refused.items()]


@dataclass(frozen=True)
class StageTraffic:
    """Serialised tensor bytes of one stage.

    Attributes:
        stage: Its name.
        sites: By site, (down, up).
        total: Both directions, all sites.
        seconds: Computing, summed over the sites.
    """

    stage: str
    sites: Mapping[str, tuple[int, int]]
    total: int
    seconds: float


def traffic(log: Log, results: Results | None, sites: Sequence[str]) -> list[StageTraffic]:
    """Bytes moved per stage and site; what results.json counts beyond the rounds comes last."""
    found = []
    answers: list[ReplyEvent | StepEvent] = [*log.replies.values(), *log.steps.values()]
    for stage in log.stages:
        replies = [answer for answer in answers if answer.stage == stage]
        of_sites = {
            site: (
                sum(r.bytes_down for r in replies if r.site == site),
                sum(r.bytes_up for r in replies if r.site == site),
            )
            for site in sites
        }
        total = sum(down + up for down, up in of_sites.values())
        found.append(StageTraffic(stage, of_sites, total, sum(r.seconds for r in replies)))
    if log.predicted:
        events = log.predicted.values()
        down = {site: sum(e.bytes_down for e in events if e.site == site) for site in sites}
        seconds = sum(e.seconds for e in events)
        of_sites = {site: (count, 0) for site, count in down.items()}
        found.append(StageTraffic("evaluate", of_sites, sum(down.values()), seconds))
    if results is not None:
        beyond = {}
        for site in sites:
            counted = results.traffic.sites.get(site)
            down_more = (counted.down if counted else 0) - sum(s.sites[site][0] for s in found)
            up_more = (counted.up if counted else 0) - sum(s.sites[site][1] for s in found)
            beyond[site] = (max(0, down_more), max(0, up_more))
        if total := sum(down + up for down, up in beyond.values()):
            found.append(StageTraffic("other", beyond, total, 0.0))
    return found


def primary(results: Results) -> str | None:
    """The metric that the study is told in; None where no site has anything known to score by."""
    had = {m for arm in results.arms.values() for s in arm.sites.values() for m in s.metrics}
    return next((metric for metric in METRICS if metric in had), None)


def against(results: Results, other: str, metric: str) -> Comparison | None:
    """The main arm's comparison with another, if it was made."""
    for comparison in results.comparisons:
        if (comparison.other, comparison.metric) == (other, metric):
            return comparison
    return None


def closures(results: Results) -> dict[str, float]:
    """The main arm's gap closure by target site."""
    return {
        site: result.gap_closure
        for site, result in (results.arms[results.main].sites.items() if results.main else ())
        if result.gap_closure is not None
    }
