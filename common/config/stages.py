"""The tables of the stages: what is trained where, for how long, how."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config.base import Table, option

Plugin = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""Somebody's own function or class, named `package.module:name`."""


class Rounds(Table):
    """Federated rounds of local training, a fresh optimiser each round."""

    rounds: int = option(1, "federated rounds", paper="1 is the papers' own run", ge=1, le=10_000)
    epochs: int = option(10, "local epochs a round", ge=1, le=100_000)
    steps: int | None = option(
        None, "optimiser steps a round, in place of epochs: the same work for few images as for "
        "many", ge=1, le=10_000_000,
    )  # fmt: skip
    batch: int | None = option(None, "images a step; default [compute].batch", ge=2, le=65_536)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "adam couples its weight decay")
    learning_rate: float = option(5e-4, "peak learning rate", gt=0, le=10)
    weight_decay: float = option(0.05, "weight decay", ge=0, le=10)
    momentum: float = option(0.99, "sgd only", paper="P1 silent; its code .99", ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = option(
        "constant", "over rounds x epochs; cosine falls to 0"
    )
    participants: tuple[str, ...] | None = option(
        None, "sites that take part; default all targets (pretraining, upper, adapt) or sources"
    )
    quorum: float | None = option(None, "default [federation].quorum", gt=0, le=1)
    deadline_s: float | None = option(None, "default [federation].deadline_s", gt=0)


class Mim(Rounds):
    """Masked image modelling at the targets: the generative branch (P1 3.2.1)."""

    epochs: int = option(10, "local epochs a round", paper="P1 3.2.1: 1200", ge=1, le=100_000)
    learning_rate: float = option(5e-4, "peak learning rate", paper="P1 3.2.1", gt=0, le=10)
    ratio: float = option(0.6, "share of mask units hidden, rounded up", paper="P1", gt=0, lt=1)
    unit_patches: int | None = option(
        None, "ViT patches a side of a mask unit; default 2 from 192 px up, else 1", ge=1, le=8
    )
    noise_ratio: float = option(
        0.0, "share of hidden units that get speckle instead of zeros", paper="P1 0; code .2",
        ge=0, le=1,
    )  # fmt: skip


class Contrastive(Rounds):
    """MT-NXent at the targets: the contrastive branch (P1 3.2.2)."""

    epochs: int = option(10, "local epochs a round", paper="P1 3.2.2: 400", ge=1, le=100_000)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adam", "coupled decay", paper="P1 3.2.2")
    learning_rate: float = option(1e-5, "peak learning rate", paper="P1 3.2.2", gt=0, le=10)
    temperature: float = option(0.5, "tau", paper="P1 Table 5", gt=0, le=100)
    min_frame_gap: int = option(
        15, "pairs of one video nearer than this are no negatives; 0 is SimCLR",
        paper="P1 Table 6", ge=0, le=100_000,
    )  # fmt: skip
    positives: Literal["views", "near_frames"] = option(
        "views", "near_frames: frames of one video at most near_gap apart are positives (IVPP)"
    )
    near_gap: int = option(5, "for positives = near_frames", ge=1, le=1000)
    gap: Literal["frames", "content"] = option(
        "frames", "content: masked where images correlate above content_threshold"
    )
    content_threshold: float = option(0.95, "normalised cross-correlation at 32 px", gt=0, le=1)
    projection: int = option(128, "width of the projection", paper="P1 3.2.2", ge=2, le=8192)
    crop: tuple[float, float] = option((0.5, 1.0), "area of the random resized crop")
    jitter: float = option(0.4, "brightness and contrast", ge=0, lt=1)
    jitter_probability: float = option(0.8, "share of views with jitter", ge=0, le=1)

    @field_validator("crop")
    @classmethod
    def _crop_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0 < low <= high <= 1:
            raise ValueError(f"{list(value)} is no range of shares: 0 < low <= high <= 1")
        return value


class Finetune(Rounds):
    """Supervised segmentation with Dice + BCE (P1 3.2.1)."""

    epochs: int = option(20, "local epochs a round", paper="P1: 200", ge=1, le=100_000)
    augmentation: bool = option(
        True, "flip, affine, gamma, brightness and contrast", paper="P1: none"
    )
    loss: Literal["dice_bce"] | Plugin = option("dice_bce", "or your own, package.module:name")
    epsilon: float = option(1.0, "Dice smoothing", paper="P1 3.2.1", gt=0, le=1000)
    pooled: bool = option(True, "Dice over the (micro-)batch at once; false: per image")
    from_weights: bool = option(
        False, "start from [model].weights", paper="P1: lower and upper start from ImageNet"
    )


class Adapt(Rounds):
    """The ensemble teaches its branches on each target's unlabelled images (beyond both papers)."""

    rounds: int = option(2, "federated rounds, fixed beforehand", ge=1, le=10_000)
    epochs: int = option(4, "local epochs a round", ge=1, le=100_000)
    learning_rate: float = option(1e-4, "peak learning rate", gt=0, le=10)
    teacher: Literal["ensemble", "self"] = option(
        "ensemble", "who makes the pseudo-masks: the fused members, or each member for itself"
    )
    adabn: bool = option(True, "recompute BatchNorm statistics on the target first")
    ema_decay: float = option(0.99, "of the teacher's weights, a step", ge=0, lt=1)
    scope: Literal["shared", "per_site"] = option(
        "shared", "one adapted ensemble for all targets, or one a target"
    )
    bound: float = option(
        0.1, "stop when source-validation DiceBCE is worse than before by more than this", ge=0
    )


class Pretrain(Table):
    """How the targets share their pretraining."""

    scope: Literal["shared", "per_site"] = option(
        "shared", "one encoder over the targets, or one (and so one ensemble) a target"
    )


class Infusion(Table):
    """The confidence-aware infusion head (P1 3.2.3)."""

    confidence: Literal["entropy", "margin", "mean"] | Plugin = option(
        "entropy", "how sure a branch is at a pixel", paper="P1 3.2.3, Table 7"
    )
    form: Literal["normalised", "paper"] = option(
        "normalised", "paper: the printed 1/2(...)", paper="P1 3.2.3"
    )
    scope: Literal["image", "batch"] = option("image", "what the min-max runs over")
    threshold: float = option(0.5, "foreground from this probability up", gt=0, lt=1)


class Evaluate(Table):
    """What is measured at every site on its test images."""

    kind: Literal["segmentation", "representation"] = option(
        "segmentation",
        "representation: frozen features of the pretrained encoders, scored by frame retrieval "
        "and a linear probe on the label; nobody needs a mask, there is no fine-tuning",
    )
    exclusion_gap: int = option(
        15, "representation: frames of the query's own video nearer than this are not searched",
        ge=0, le=100_000,
    )  # fmt: skip
    bootstrap: int = option(2000, "resamples of patients for the intervals", ge=100, le=100_000)
    overlays: int = option(12, "images a site draws into its own report", ge=0, le=1000)
    reference: bool = option(
        False,
        "each site also gives aggregates of its training images' grey levels and features, over 5 "
        "patients at least, by which a bundle flags frames unlike them",
    )


class Federation(Table):
    """What the server does with the replies."""

    aggregation: Literal["mean", "fedprox", "fedadam", "median", "trimmed", "krum"] | Plugin = (
        option(
            "mean",
            "rule of aggregation; median, trimmed, krum: a bad minority cannot steer it, and no "
            "site weighs more than another; or your own, package.module:name",
        )
    )
    weighting: Literal["images", "patients", "equal"] = option(
        "images", "a site's weight in the mean: its training images, patients, or 1"
    )
    norm: Literal["average", "local"] = option(
        "average", "BatchNorm: average it, or keep all of it at the site (FedBN)"
    )
    proximal: float = option(0.01, "fedprox: mu of (mu/2) |w - w_round|^2", ge=0, le=1000)
    server_learning_rate: float = option(0.01, "fedadam: eta", gt=0, le=10)
    beta_1: float = option(0.9, "fedadam", ge=0, lt=1)
    beta_2: float = option(0.99, "fedadam", ge=0, lt=1)
    tau: float = option(1e-3, "fedadam: adaptivity", gt=0, le=1)
    trim: float = option(
        0.2, "trimmed: share of replies cut at either end, rounded up while one is left",
        gt=0, lt=0.5,
    )  # fmt: skip
    byzantine: int = option(
        1, "krum: f, bad replies that it withstands; 2 f + 3 must come. One that is refused is one "
        "of the f, and out already", ge=0,
    )  # fmt: skip
    update_bound: float = option(
        100.0, "a reply whose weights moved more than so many times their own length is refused",
        gt=0,
    )  # fmt: skip
    quorum: float = option(
        1.0, "share of a stage's sites whose answers suffice; who is missing is named. A choice of "
        "images keeps to the sites that it began with", gt=0, le=1,
    )  # fmt: skip
    count_bucket: int = option(
        1, "counts leave a site's gate in such steps; results are then not comparable bit for bit",
        ge=1, le=1000,
    )  # fmt: skip
    deadline_s: float = option(
        86_400.0, "seconds a round waits for a site; so long the study waits for its sites at the "
        "start", gt=0,
    )  # fmt: skip


class Wire(Table):
    """How tensors travel."""

    dtype: Literal["float32", "float16", "bfloat16"] = option(
        "float32", "of the weights on the wire; bfloat16 travels as its bits"
    )


class Compute(Table):
    """What a site's machine may use."""

    device: str = option("cpu", "cpu, cuda, cuda:0 (untested on a GPU)")
    precision: Literal["float32", "bfloat16"] = option(
        "float32", "autocast of the forward pass; the contrastive stage stays float32"
    )
    threads: int = option(1, "CPU threads inside a handler", ge=1, le=512)
    workers: int = option(
        0, "threads that read the next batches ahead; 0: the cache is fast enough", ge=0, le=64
    )
    jobs: int = option(1, "sites at work at the same time in a simulation", ge=1, le=64)
    batch: int = option(16, "images a step where a stage names none", ge=2, le=65_536)
    micro_batch: int | None = option(
        None, "images a forward pass; BatchNorm and pooled Dice are per micro-batch", ge=2
    )
    gpu_memory_gb: float | None = option(None, "a card's memory; default what it has", gt=0)

    @model_validator(mode="after")
    def _micro(self) -> Self:
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch {self.micro_batch} is larger than batch {self.batch}")
        return self
