"""The second half of a plan (P2): what the sites select, and the classifiers trained on it."""

from collections.abc import Callable

from common.config.arms import BOUND_ARMS, DUAL_ARMS, MAIN_SELECTION_ARMS, POINTWISE
from common.config.selection import COHORT, Score, Sphere
from common.config.study import Study
from common.plan.types import Cell, Selection, Training, arm_name, cell_key

DIFFUSION = "source/diffusion"

SCORES: dict[str, dict[str, object]] = {
    "dual_far": {"representative": "far"},
    "dual_span": {"uncertainty": "span"},
    "dual_entropy": {"uncertainty": "entropy"},
    "dual_min_gap": {"uncertainty": "min_gap"},
    "dual_raw": {"combine": "raw"},
    "dual_zscore": {"combine": "zscore"},
    "dual_k2": {"clusters": 2},
    "dual_k3": {"clusters": 3},
    "dual_k5": {"clusters": 5},
}
"""What an ablation changes in the score."""

SPHERES: dict[str, dict[str, object]] = {
    "contrast": {"views": "augmentations", "normalise": False},
    "sphere": {"views": "augmentations"},
    "no_reconstruction": {"views": "augmentation"},
}
"""What an ablation changes in the embedding (P2 Table 3: +CL, +CL+Hypersphere, w/o)."""


def source_classifier_key(architecture: str) -> str:
    """Key of the training of a classifier at the source."""
    return f"{architecture}/source_classifier"


class SelectionPlanner:
    """Adds the second half's trainings, after those of the first.

    Args:
        study: With arms that select.
        add: Takes a training into the plan, and gives the key that it (or an equal one) has there.
    """

    def __init__(self, study: Study, add: Callable[[Training], str]) -> None:
        self.study = study
        self.add = add
        self.selections: dict[str, Selection] = {}
        self.cells: dict[str, Cell] = {}

    def before(self) -> None:
        """Trainings that no selection stands before: classifiers, diffusion, spheres."""
        study = self.study
        arms = study.selection_arms
        for architecture in self._architectures():
            self._source_classifier(architecture)
        duals = [arm for arm in arms if arm in DUAL_ARMS]
        if any(arm != "no_reconstruction" for arm in duals):
            sites = self._sites(study.diffusion.participants, study.sources)
            self.add(Training(DIFFUSION, "diffusion", study.diffusion, sites))
        for arm in arms:
            if arm != "source_only":
                self.selections[arm_name(arm)] = self._selection(arm)

    def after(self) -> None:
        """Trainings on selected images: the classifiers."""
        study = self.study
        for arm in study.selection_arms:
            name = arm_name(arm)
            budgets = self.selections[name].budgets if name in self.selections else (0.0,)
            for budget in budgets:
                for architecture in study.classify.architectures:
                    start = source_classifier_key(architecture)
                    key = cell_key(arm, budget, architecture)
                    training = start
                    if budget:
                        training = self.add(
                            Training(
                                f"{key}/classify",
                                "classify",
                                study.classify,
                                self._sites(study.classify.participants, study.targets),
                                (start,),
                                architecture=architecture,
                                selection=name,
                                budget=budget,
                            )
                        )
                    self.cells[key] = Cell(key, name, budget, architecture, training)

    def leading(self) -> Selection:
        """The first arm that selects, whose images the ensemble is fine-tuned on."""
        name = next(arm for arm in self.study.selection_arms if arm not in BOUND_ARMS)
        return self.selections[arm_name(name)]

    def _architectures(self) -> tuple[str, ...]:
        """The sphere's, unless nothing embeds, and each that is fine-tuned."""
        embeds = any(arm not in (*BOUND_ARMS, "random") for arm in self.study.selection_arms)
        sphere = (self.study.sphere.architecture,) if embeds else ()
        return tuple(dict.fromkeys((*sphere, *self.study.classify.architectures)))

    def _sites(self, wanted: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(s for s in default if s in wanted) if wanted is not None else default

    def _source_classifier(self, architecture: str) -> str:
        settings = self.study.source_classifier
        return self.add(
            Training(
                source_classifier_key(architecture),
                "source_classifier",
                settings,
                self._sites(settings.participants, self.study.sources),
                architecture=architecture,
            )
        )

    def _selection(self, arm: str) -> Selection:
        study = self.study
        dual = arm in DUAL_ARMS
        pooled = dual or arm in (*POINTWISE, *BOUND_ARMS)
        score = study.score
        if arm == "dual_cohort":
            score = score.model_copy(update={"min_cohort": COHORT})
        elif arm in SCORES:
            score = Score.model_validate({**score.model_dump(), **SCORES[arm]})
        budgets = study.select.budgets
        if dual and arm not in MAIN_SELECTION_ARMS:
            budgets = study.select.ablation_budgets
        if arm == "full":
            budgets = (1.0,)
        embedding = ""
        if dual:
            embedding = self._embedding(arm)
        elif arm not in (*BOUND_ARMS, "random"):
            embedding = source_classifier_key(study.sphere.architecture)
        return Selection(
            arm=arm_name(arm),
            strategy="dual" if dual else "random" if arm == "full" else arm,
            settings=score,
            embedding=embedding,
            reconstructed=dual and arm != "no_reconstruction",
            metric="euclidean" if arm == "contrast" or (dual and not self._normalised(arm))
            else "angle",
            budget="per_site" if arm == "dual_per_site" or not pooled else study.select.budget,
            budgets=budgets,
        )  # fmt: skip

    def _normalised(self, arm: str) -> bool:
        return arm == "frozen" or self._sphere_settings(arm).normalise

    def _embedding(self, arm: str) -> str:
        """The sphere of an arm; equal ones are trained once."""
        start = source_classifier_key(self.study.sphere.architecture)
        if arm == "frozen":
            return start
        settings = self._sphere_settings(arm)
        return self.add(
            Training(
                f"{arm}/sphere",
                "sphere",
                settings,
                self._sites(settings.participants, self.study.targets),
                (start,),
                architecture=settings.architecture,
            )
        )

    def _sphere_settings(self, arm: str) -> Sphere:
        return self.study.sphere.model_copy(update=SPHERES.get(arm, {}))
