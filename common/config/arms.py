"""Names of what a study can compare: segmentation arms (P1) and selecting arms (P2)."""

from typing import Literal, get_args

SegmentationArm = Literal[
    "ensemble",
    "ensemble_entropy",
    "ensemble_margin",
    "ensemble_mean",
    "mim",
    "contrastive",
    "contrastive_content",
    "simclr",
    "untrained",
    "lower",
    "lower_plain",
    "upper",
    "ensemble_adapted",
    "lower_adapted",
    "ensemble_selected",
    "homogeneous_mim",
    "homogeneous_contrastive",
    "homogeneous_mixed",
]
DualArm = Literal[
    "dual",
    "dual_per_site",
    "dual_cohort",
    "dual_far",
    "dual_span",
    "dual_entropy",
    "dual_min_gap",
    "dual_raw",
    "dual_zscore",
    "dual_k2",
    "dual_k3",
    "dual_k5",
    "frozen",
    "contrast",
    "sphere",
    "no_reconstruction",
]
StrategyArm = Literal[
    "random",
    "vaal",
    "coreset",
    "entropy",
    "bald",
    "lfosa",
    "typiclust",
    "badge",
    "probcover",
]
BoundArm = Literal["full", "source_only"]
ArmName = SegmentationArm | DualArm | StrategyArm | BoundArm

SEGMENTATION_ARMS: tuple[str, ...] = get_args(SegmentationArm)
DUAL_ARMS: tuple[str, ...] = get_args(DualArm)
STRATEGY_ARMS: tuple[str, ...] = get_args(StrategyArm)
BOUND_ARMS: tuple[str, ...] = get_args(BoundArm)
"""All images annotated; none annotated, the source's classifier as it is."""

POINTWISE = ("random", "entropy", "bald", "lfosa")
"""Strategies that score each image by itself, so that one threshold can go over all sites. The
others, and somebody's own, need a site's embeddings together: they choose per site, by quota."""

MAIN_SELECTION_ARMS = ("dual", "dual_per_site", "dual_cohort", *STRATEGY_ARMS)
"""Arms that run at every budget; the other dual arms are ablations with budgets of their own."""

ENCODER_ARMS = ("mim", "contrastive", "contrastive_content", "simclr", "untrained")
"""Arms of a study with `[evaluate] kind = "representation"`: one encoder each."""

ARMS = (*SEGMENTATION_ARMS, *DUAL_ARMS, *STRATEGY_ARMS, *BOUND_ARMS)
