"""The study as a picture: stages from left to right, the server above the wall, sites below it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.formats import EnrolEvent, StudyEvent, TrainingPlan
from server.report_views import Log, ordered

STAGES = {
    "enrol": "sites say how many images, patients and masks they have",
    "mim": "masked image modelling on the targets' unlabelled images",
    "contrastive": "contrastive pretraining on the targets' unlabelled images",
    "finetune_mim": "the generative branch learns segmentation from the source's masks",
    "finetune_contrastive": "the contrastive branch learns segmentation from the source's masks",
    "lower": "the source-only model",
    "upper": "the model that may use the targets' masks",
    "assemble": "the members become one ensemble, at the server",
    "adapt": "the ensemble teaches its branches on the targets' unlabelled images",
    "source_classifier": "classifiers learn from the source's labels",
    "diffusion": "a diffusion model learns the source's images, on their edges",
    "reconstruct": "each target redraws its images in the source's style; the redrawn stay there",
    "sphere": "teacher on the image, student on its reconstruction, on the hypersphere",
    "score": "k-means over all pools; sums and counts cross",
    "select": "one threshold, or a quota; each site writes its own worklist",
    "annotate": "experts at the sites label what was selected",
    "classify": "classifiers learn from the labels of the selected, and are judged",
    "finetune_selected": "the ensemble learns from the selected images' masks",
    "evaluate": "members come, every arm is scored on the site's own test images",
}

SELECTING = (
    "source_classifier", "diffusion", "reconstruct", "sphere", "score", "select", "annotate",
    "classify", "finetune_selected",
)  # fmt: skip
"""Stages of the second half, in their order."""


@dataclass(frozen=True)
class Column:
    """One stage in the study's diagram.

    Attributes:
        x: Its place, px.
        words: The stage's name, a word a line.
        rounds: What it takes, e.g. "2 × 8 rounds"; empty for a single exchange.
        at_server: Whether it happens at the server alone.
        dots: (y, colour's number) of the sites that take part.
        title: What the stage does.
    """

    x: float
    words: Sequence[str]
    rounds: str
    at_server: bool
    dots: Sequence[tuple[float, int]]
    title: str


@dataclass(frozen=True)
class Lane:
    """One site in the study's diagram."""

    y: float
    name: str
    role: str
    facts: str
    color: int


@dataclass(frozen=True)
class Diagram:
    """Who takes part in what, and the wall between.

    Attributes:
        title: Which half of the study it is; empty where there is one half only.
        width: px.
        height: px.
        left: Where the first stage stands.
        server_y: The server's lane.
        wall_y: What images do not cross.
        columns: The stages.
        lanes: The sites.
        alt: The same in words.
    """

    title: str
    width: float
    height: float
    left: float
    server_y: float
    wall_y: float
    columns: Sequence[Column]
    lanes: Sequence[Lane]
    alt: str


def diagrams(study: StudyEvent, log: Log) -> list[Diagram]:
    """Lay the study out: one picture for what segments, one for what selects and classifies."""
    segmentation, selection = _segmentation(study), _selection(study)
    if not selection:
        return [_diagram("", segmentation, study, log)]
    if not study.arms:
        return [_diagram("", {"enrol": Part(tuple(study.sites)), **selection}, study, log)]
    return [
        _diagram("Segmentation", segmentation, study, log),
        _diagram("Selection and classification", selection, study, log),
    ]


@dataclass(frozen=True)
class Part:
    """Who takes part in a stage (nobody: it happens at the server), and in which trainings."""

    sites: Sequence[str]
    trainings: Sequence[TrainingPlan] = ()


def _diagram(title: str, parts: Mapping[str, Part], study: StudyEvent, log: Log) -> Diagram:
    width, left, server_y, wall_y, first, pitch = 1040.0, 196.0, 78.0, 118.0, 172.0, 46.0
    lanes = [
        Lane(first + n * pitch, site, study.sites[site], _facts(log.enrolled.get(site)), n % 8)
        for n, site in enumerate(ordered(study))
    ]
    step = (width - left - 44) / max(1, len(parts) - 1)
    columns = [
        Column(
            x=left + n * step,
            words=stage.split("_"),
            rounds=_rounds(part.trainings),
            at_server=not part.sites,
            dots=[(lane.y, lane.color) for lane in lanes if lane.name in part.sites],
            title=STAGES.get(stage, stage),
        )
        for n, (stage, part) in enumerate(parts.items())
    ]
    who = "; ".join(
        f"{stage}: " + (", ".join(part.sites) or "server")
        for stage, part in parts.items()
        if stage not in ("enrol", "evaluate")
    )
    return Diagram(
        title=title,
        width=width,
        height=first + (len(lanes) - 1) * pitch + 34,
        left=left,
        server_y=server_y,
        wall_y=wall_y,
        columns=columns,
        lanes=lanes,
        alt=(
            f"Stages from left to right and the sites that take part. {who}. "
            "Weights, counts and scalar metrics cross between server and sites; images, masks and "
            "scores of single images stay at the sites."
        ),
    )


def _trained(study: StudyEvent) -> dict[str, Part]:
    """Stages that train, in the order of the study."""
    stages: dict[str, list[TrainingPlan]] = {}
    for training in study.trainings:
        stages.setdefault(training.stage, []).append(training)
    return {
        stage: Part(tuple(dict.fromkeys(s for t in of for s in t.participants)), of)
        for stage, of in stages.items()
    }


def _segmentation(study: StudyEvent) -> dict[str, Part]:
    """The first half: what the ensemble is made of, and how it is judged."""
    trained = {s: part for s, part in _trained(study).items() if s not in SELECTING}
    adapt = trained.pop("adapt", None)
    everyone = Part(tuple(study.sites))
    return {
        "enrol": everyone,
        **trained,
        "assemble": Part(()),
        **({"adapt": adapt} if adapt else {}),
        "evaluate": everyone,
    }


def _selection(study: StudyEvent) -> dict[str, Part]:
    """The second half: what leads to a choice, and what is trained on it."""
    trained = _trained(study)
    targets = Part(tuple(site for site, role in study.sites.items() if role == "target"))
    dual = any(selection.strategy == "dual" for selection in study.selections)
    between = {
        "reconstruct": Part(tuple(study.sites)) if "diffusion" in trained else None,
        "score": targets if dual else None,
        "select": targets if study.selections else None,
        "annotate": targets if study.selections else None,
    }
    known = {**trained, **{stage: part for stage, part in between.items() if part}}
    return {stage: known[stage] for stage in SELECTING if stage in known}


def _rounds(trainings: Sequence[TrainingPlan]) -> str:
    counts = [training.rounds for training in trainings]
    if not counts:
        return ""
    if len(set(counts)) > 1:
        return f"{sum(counts)} rounds"
    rounds = f"{counts[0]} round" + ("s" if counts[0] != 1 else "")
    return f"{len(counts)} × {rounds}" if len(counts) > 1 else rounds


def _facts(enrolled: EnrolEvent | None) -> str:
    if enrolled is None:
        return ""
    counts = enrolled.counts
    parts = [f"{counts[key]:,} {key}" for key in ("images", "patients") if counts.get(key)]
    return ", ".join(parts)
