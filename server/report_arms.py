"""The selecting arms in words, and which of them are ablations."""

from collections.abc import Mapping, Sequence

from common.config.arms import BOUND_ARMS, DUAL_ARMS, MAIN_SELECTION_ARMS
from common.config.selection import budget_name
from common.plan import arm_name

METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
}

ARMS = {
    "dual": "the dual score: near two clusters, and near its reconstruction (P2)",
    "dual_per_site": "the dual score, each site its own share",
    "dual_cohort": "the dual score where every number that crosses stands for five images",
    "dual_far": "the dual score, preferring images far from their reconstruction",
    "dual_span": "the dual score, uncertainty as largest minus smallest angle",
    "dual_entropy": "the dual score, uncertainty as entropy over the clusters",
    "dual_min_gap": "the dual score, uncertainty as Eq. 4 prints it",
    "dual_raw": "the dual score, uncertainty and distance added as they are",
    "dual_zscore": "the dual score, uncertainty and distance standardised",
    "dual_k2": "the dual score with 2 clusters",
    "dual_k3": "the dual score with 3 clusters",
    "dual_k5": "the dual score with 5 clusters",
    "frozen": "the source's classifier embeds, nothing is trained",
    "contrast": "contrast of two augmentations, Euclidean clusters",
    "sphere": "contrast of two augmentations, on the hypersphere",
    "no_reconstruction": "the student sees an augmentation, the distance is dropped",
    "random": "drawn by lot",
    "vaal": "half drawn by lot, half what a discriminator takes for unlike those (VAAL)",
    "coreset": "k-center greedy in the source classifier's features (Core-Set)",
    "entropy": "where the source's classifier is least sure (Max-Entropy)",
    "bald": "where dropout passes disagree (BALD)",
    "lfosa": "where the classifier is surest of a known class (LfOSA)",
    "typiclust": "the most typical image of each cluster (TypiClust)",
    "badge": "k-means++ of gradient embeddings (BADGE)",
    "probcover": "greedy cover of balls in feature space (ProbCover)",
    "full": "every image annotated: the upper bound",
    "source_only": "no image annotated: the source's classifier as it is",
}

ABLATIONS: Mapping[str, Mapping[str, str]] = {
    "Components (P2 Table 3)": {
        "frozen": "frozen backbone only",
        "contrast": "+ CL",
        "sphere": "+ CL + hypersphere",
        "no_reconstruction": "without reconstruction",
        "dual": "dual",
    },
    "Clusters": {
        "dual_k2": "k = 2", "dual_k3": "k = 3", "dual": "k as the study has it", "dual_k5": "k = 5",
    },
    "Score": {
        "dual": "dual",
        "dual_far": "far from the reconstruction",
        "dual_span": "uncertainty: span",
        "dual_entropy": "uncertainty: entropy",
        "dual_min_gap": "uncertainty: Eq. 4 as printed",
        "dual_raw": "added raw",
        "dual_zscore": "added as z scores",
    },
    "Over the sites": {
        "dual": "dual",
        "dual_per_site": "each site its own share",
        "dual_cohort": "cohorts of five",
    },
}  # fmt: skip
"""Rows of the ablations' tables, in words."""


def is_main(arm: str) -> bool:
    """Whether an arm runs at every budget, and is no ablation."""
    return arm in MAIN_SELECTION_ARMS or arm in BOUND_ARMS or arm not in DUAL_ARMS


def percent(budget: float) -> str:
    """A budget in words."""
    return f"{budget_name(budget).replace('_', '.')}\u202f%"


def words_of(arms: Sequence[str]) -> dict[str, str]:
    """Arms in words; somebody's own strategy is named as such."""
    return {arm_name(arm): ARMS.get(arm, "a strategy of somebody's own") for arm in arms}
