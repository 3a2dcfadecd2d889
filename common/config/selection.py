"""The tables of reconstruction and active learning (P2): what the sites choose, and how.

Stages, in the order in which they run: source_classifier, diffusion, reconstruct, sphere, score,
select, annotate, classify, finetune_selected.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config.base import Table, option
from common.config.stages import Finetune, Rounds

Architecture = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$")]
"""A classifier's name in timm."""

Share = Annotated[float, Field(gt=0, le=1)]

COHORT = 5
"""Images that any number must stand for in a consortium, by default, and in `dual_cohort`."""

COHORT_CLUSTERS = 12
"""Clusters at most where there is a cohort (clients/cohort.py says why)."""


class SourceClassifier(Rounds):
    """Classifiers trained on the source's labels: what the sphere and the classifiers start from.

    One is trained for the sphere and one for each downstream architecture. The epoch with the
    lowest cross-entropy on source validation is kept.
    """

    epochs: int = option(40, "local epochs a round", ge=1, le=100_000)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adam", "of the classifiers", paper="P2 3")
    learning_rate: float = option(1e-3, "peak learning rate", paper="P2 3", gt=0, le=10)
    weight_decay: float = option(0.0, "weight decay", ge=0, le=10)
    schedule: Literal["constant", "cosine"] = option("cosine", "over all rounds", paper="P2 3")
    augmentation: bool = option(True, "horizontal flip and rotation", paper="P2 3")
    weights: dict[Architecture, str] = option(
        {}, "architecture -> local file with timm's ImageNet weights to start from"
    )

    def __hash__(self) -> int:
        """By content: the weights' table is a dict."""
        return hash(self.model_dump_json())


class Diffusion(Rounds):
    """Denoising diffusion with ControlNet on canny edges, learned at the source (P2 2.1)."""

    epochs: int = option(200, "local epochs a round", paper="P2 3: 200", ge=1, le=100_000)
    batch: int | None = option(8, "images a step", ge=1, le=65_536)
    micro_batch: int | None = option(
        None, "images a forward pass, their gradients added up; unset: [compute] micro_batch", ge=1
    )
    learning_rate: float = option(1e-4, "peak learning rate", paper="P2 3", gt=0, le=10)
    weight_decay: float = option(0.01, "weight decay", ge=0, le=10)
    preset: Literal["tiny", "small", "stable-diffusion"] = option(
        "small",
        "tiny, small: in pixels after PixelUnshuffle(2), from scratch; stable-diffusion: a frozen "
        "autoencoder and U-Net from `weights`, ControlNet trained alone",
        paper="P2 2.1: stable-diffusion",
    )
    weights: str = option("", "stable-diffusion: local folder in diffusers' layout")
    timesteps: int = option(1000, "steps of the noise schedule", ge=10, le=10_000)
    betas: Literal["cosine", "linear"] = option("cosine", "noise schedule")
    prediction: Literal["v", "epsilon"] = option("v", "what the network predicts", paper="P2 Eq. 1")
    ema_decay: float = option(0.995, "of the weights that are kept, a step", ge=0, lt=1)
    hint_dropout: float = option(0.1, "share of edges hidden", paper="P2 code .2", ge=0, le=1)
    prompt_dropout: float = option(0.1, "share of prompts hidden", paper="P2 code .2", ge=0, le=1)
    text: Literal["none", "learned", "clip", "biomedclip"] = option(
        "none", "text conditioning; one constant prompt carries almost nothing", paper="P2 2.1"
    )
    text_weights: str = option("", "clip, biomedclip: local folder")
    prompt: str = option("Ultrasound of breast", "the one prompt", paper="P2 2.1")
    memorisation_samples: int = option(
        256, "images drawn on held-out edges before the weights may leave", ge=8, le=100_000
    )
    memorisation_threshold: float = option(
        0.1, "largest share of them that may lie nearer to a training image than the 5th "
        "percentile of held-out images does", gt=0, le=1,
    )  # fmt: skip


class Reconstruct(Table):
    """Each target image redrawn in the source's style, at the target (P2 2.1, Stage II)."""

    sampler: Literal["ddim", "dpm"] = option("ddim", "dpm: DPM-Solver++")
    steps: int = option(20, "denoising steps", paper="P2 code: DDIM 50", ge=1, le=1000)
    guidance: float = option(1.0, "classifier-free, on the hint", paper="P2 code 9", ge=0, le=50)
    init: Literal["noise", "sdedit", "ddim_inversion"] = option(
        "noise", "what denoising starts from", paper="P2 Eq. 1: noise"
    )
    strength: float = option(0.6, "sdedit: share of the schedule that is run", gt=0, le=1)
    batch: int = option(32, "images at a time; part of what makes two runs equal", ge=1, le=4096)
    lpips_weights: str = option("", "local folder with LPIPS weights; unset: LPIPS is left out")


class Sphere(Rounds):
    """Teacher on the image, student on its reconstruction, on the hypersphere (P2 2.2)."""

    epochs: int = option(200, "local epochs a round", paper="P2 3: 200", ge=1, le=100_000)
    learning_rate: float = option(1e-4, "peak learning rate", paper="P2 3", gt=0, le=10)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adam", "of the student", paper="P2 code")
    weight_decay: float = option(0.0, "weight decay", ge=0, le=10)
    architecture: Architecture = option("resnet50", "timm backbone", paper="P2 2.2")
    hidden: int = option(4096, "width of the MLPs' hidden layer", paper="P2 code", ge=8, le=65_536)
    dimension: int = option(256, "of the embedding", paper="P2 2.2", ge=2, le=4096)
    m: float = option(4.0, "angular scaling factor", paper="P2 Eq. 3", gt=0, le=100)
    form: Literal["(m*theta)^2", "m*theta^2", "theta+m"] = option(
        "(m*theta)^2", "angular loss", paper="P2 Eq. 3"
    )
    views: Literal["reconstruction", "augmentations", "augmentation"] = option(
        "reconstruction",
        "what teacher and student see: the image and its reconstruction; two augmentations; the "
        "image and an augmentation",
        paper="P2 2.2; Table 3",
    )
    normalise: bool = option(
        True, "on the sphere; false: BYOL's loss, Euclidean embeddings", paper="P2 Table 3"
    )
    ema_decay: float = option(0.99, "of the teacher, a step", paper="P2 code", ge=0, lt=1)
    min_angle: float = option(
        0.02, "stop when the mean pairwise angle of a site's embeddings falls below (radians)",
        ge=0, le=3.2,
    )  # fmt: skip
    min_rank: float = option(
        2.0, "stop when the effective rank of a site's embeddings falls below", ge=1, le=4096
    )


class Score(Table):
    """The dual score (P2 2.3, Eq. 4), exact in any split over sites."""

    clusters: int = option(4, "k of the spherical k-means", paper="P2 Table 3", ge=2, le=1024)
    omega: float = option(1.0, "weight of the distance", paper="P2 Eq. 4", ge=0, le=1000)
    uncertainty: Literal["margin", "span", "entropy", "min_gap"] = option(
        "margin", "min_gap is Eq. 4 as printed", paper="P2 Eq. 4"
    )
    combine: Literal["rank", "raw", "zscore"] = option("rank", "how the two are added")
    representative: Literal["near", "far"] = option(
        "near", "prefer images near their reconstruction (Eq. 4), or far (the text)", paper="P2 2.3"
    )
    restarts: int = option(10, "of k-means; the lowest inertia counts", ge=1, le=1000)
    iterations: int = option(50, "of k-means at most", ge=1, le=10_000)
    min_cohort: int = option(
        0, "images that any reported number must stand for; a site may ask for more, and in a "
        "consortium asks for 5 unless its site.toml says otherwise; above 1 the choice is no "
        "longer exactly the pooled one", ge=0, le=1_000_000,
    )  # fmt: skip


class Select(Table):
    """How many images experts are asked to annotate (P2 Eq. 5)."""

    budgets: tuple[Share, ...] = option((0.2, 0.3, 0.5, 0.8), "shares of the pool", paper="P2 3")
    ablation_budgets: tuple[Share, ...] = option(
        (0.2,), "of the ablations' arms", paper="P2 Table 3"
    )
    budget: Literal["pooled", "per_site"] = option(
        "pooled", "one threshold over all sites, or each site its own share"
    )
    dropout_samples: int = option(20, "bald: Monte-Carlo dropout passes", ge=2, le=1000)
    vaal_epochs: int = option(20, "vaal: epochs of its autoencoder", ge=1, le=10_000)

    @field_validator("budgets", "ablation_budgets")
    @classmethod
    def _distinct_percents(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("name at least one")
        names = [budget_name(share) for share in value]
        if len(set(names)) < len(names):
            raise ValueError("two of them are equal")
        return value


class Annotate(Table):
    """Labels of the selected images come back."""

    labels: Literal["hidden", "file"] = option(
        "hidden",
        "hidden: the manifest's own labels play the experts; file: what `sonofed labels import` "
        "has brought to the site, and the study waits for it",
    )
    enough: float = option(1.0, "share of the selected that must be annotated", gt=0, le=1)
    poll_s: float = option(
        30.0, "seconds between two looks; more, up to 15 minutes, while nothing changes",
        gt=0, le=86_400,
    )  # fmt: skip


class Classify(Rounds):
    """Classifiers fine-tuned on the selected images, in rounds over the targets (P2 3)."""

    epochs: int = option(140, "local epochs a round", paper="P2 3: 140", ge=1, le=100_000)
    batch: int | None = option(8, "images a step", paper="P2 3: 8", ge=2, le=65_536)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adam", "of the classifiers", paper="P2 3")
    learning_rate: float = option(1e-3, "peak learning rate", paper="P2 3", gt=0, le=10)
    weight_decay: float = option(0.0, "weight decay", ge=0, le=10)
    schedule: Literal["constant", "cosine"] = option("cosine", "over all rounds", paper="P2 3")
    augmentation: bool = option(True, "horizontal flip and rotation", paper="P2 3")
    trained: Literal["all", "last_layer"] = option(
        "all",
        "all: the whole classifier; last_layer: that alone, on frozen features (linear probing)",
        paper="P2 3: all",
    )
    architectures: tuple[Architecture, ...] = option(
        ("resnet50", "densenet169", "shufflenet_v2_x1_0", "mobilenetv3_large_100",
         "efficientnet_b0"),
        "timm's names; shufflenet_v2_x* are torchvision's", paper="P2 Table 2",
    )  # fmt: skip

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.architectures or len(set(self.architectures)) < len(self.architectures):
            raise ValueError("architectures: name at least one, and none twice")
        return self


class FinetuneSelected(Finetune):
    """The ensemble's branches fine-tuned on the selected images' masks, at the targets.

    Here the two papers meet. It runs where the study has the arm `ensemble_selected`; the images
    are those that the study's first selecting arm chose.
    """


def cohort_problems(score: Score, duals: Sequence[str]) -> list[str]:
    """What a study with a minimum cohort cannot have.

    Args:
        score: The study's.
        duals: Its arms that choose by the dual score.
    """
    problems = []
    if "dual_cohort" in duals and score.min_cohort > 1:
        problems.append(
            f"score.min_cohort: {score.min_cohort}, but the arm dual_cohort has a cohort of "
            f"{COHORT} and is held against an exact choice; take out one of the two"
        )
    clustered = [arm for arm in duals if not arm.startswith("dual_k")]
    cohort = "dual_cohort" in duals or (score.min_cohort > 1 and bool(clustered))
    if cohort and score.clusters > COHORT_CLUSTERS:
        problems.append(
            f"score.clusters: {score.clusters}, but with a minimum cohort at most "
            f"{COHORT_CLUSTERS} can be held against each other"
        )
    return problems


def budget_name(share: float) -> str:
    """A budget as it stands in keys and folders: `"20"` for .2, `"12_5"` for .125."""
    return f"{round(100 * share, 6):g}".replace(".", "_")
