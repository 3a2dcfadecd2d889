"""results.json."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.formats.names import Role, Unit


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
    cohort: dict[str, int] = Field(
        default={}, description="site to the images that any of its numbers stood for; 0, 1: exact"
    )
    regrouped: dict[str, int] = Field(
        default={}, description="site to images counted in another cell than their own, or in none"
    )
    due: dict[str, int] = Field(
        default={}, description="budget to the images that it stands for; with a cohort the choice "
        "may have more or fewer",
    )  # fmt: skip


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
