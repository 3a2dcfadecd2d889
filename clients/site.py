"""A site's data as its stages see them, opened once in a process."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clients.data.site import SiteData
from clients.settings import SiteSettings
from common.config.arms import DUAL_ARMS
from common.config.data import SplitConfig
from common.config.selection import cohort_problems
from common.config.study import Study
from common.errors import InputError
from common.plan import Training

POOL_STAGES = ("mim", "contrastive", "adapt", "reconstruct", "sphere", "score", "select")
LABELS_TOLD = 5
"""Wrong labels of a site that are told one by one."""


def open_site(site: SiteSettings, study: Study) -> SiteData:
    """The site's rows, split and cached images at the study's size.

    Raises:
        InputError: If the manifest or an image is not sound.
    """
    return _open(site, study.model.image_size, study.classes, study.split)


@lru_cache(maxsize=64)
def _open(site: SiteSettings, side: int, classes: tuple[str, ...], split: SplitConfig) -> SiteData:
    return SiteData.open(site, side=side, classes=classes, split=split)


def check_batches(
    data: SiteData, site: SiteSettings, study: Study, trainings: list[Training]
) -> None:
    """A site must have test images, and fill a batch of every training it takes part in.

    Raises:
        InputError: Naming the site, and each stage that it has too few images for.
    """
    problems = _cohort_problems(site, study)
    if not len(data.split.test):
        problems.append(f"site {site.name}: no image is left to test on (stage evaluate)")
    unmasked = not data.has_mask[data.split.val].any()
    if unmasked and site.role == "source" and any(t.stage == "adapt" for t in trainings):
        problems.append(f"site {site.name}: no validation image has a mask (stage adapt)")
    if any(t.stage in ("source_classifier", "classify") for t in trainings):
        problems += label_problems(data, site, study)
    for training in trainings:
        if site.name not in training.participants or training.selection:
            continue
        batch = training.settings.batch or study.compute.batch
        have = len(training_rows(data, training.stage))
        if have < batch:
            problems.append(
                f"site {site.name}: {have} training images are fewer than a batch of {batch} "
                f"(stage {training.stage}); lower {training.stage}.batch or [compute] batch"
            )
        elif training.stage in ("finetune_mim", "finetune_contrastive", "lower", "upper"):
            masked = int(data.has_mask[data.split.train].sum())
            if masked < batch:
                problems.append(
                    f"site {site.name}: {masked} training images with a mask are fewer than a "
                    f"batch of {batch} (stage {training.stage})"
                )
            if unmasked:
                problems.append(
                    f"site {site.name}: no validation image has a mask (stage {training.stage})"
                )
    if problems:
        raise InputError(list(dict.fromkeys(problems)))


def _cohort_problems(site: SiteSettings, study: Study) -> list[str]:
    """A site with a cohort of its own cannot answer for a study with too many clusters."""
    if site.role != "target":
        return []
    asked = study.score.model_copy(update={"min_cohort": site.cohort})
    # For dual_cohort the study itself has been looked at.
    duals = [arm for arm in study.selection_arms if arm in DUAL_ARMS and arm != "dual_cohort"]
    return [f"site {site.name}: {line} (stage score)" for line in cohort_problems(asked, duals)]


def label_problems(data: SiteData, site: SiteSettings, study: Study) -> list[str]:
    """What is wrong with a site's labels: at a source all of them, else those of the test images.

    A target's labels are read here on behalf of the evaluation, which alone will see them.
    """
    known = study.labels
    rows = np.arange(len(data)) if site.role == "source" else data.split.test
    labels = data.labels(rows, stage="evaluate")
    if len(labels) and not any(labels):
        which = "image" if site.role == "source" else "test image"
        return [
            f"site {site.name}: no {which} has a label in its manifest; say with "
            f"[sites.{site.name}] columns which column has it"
        ]
    problems = [
        f"site {site.name}: image {data.rows[row].id!r} has the label {label!r}, which is none of "
        f"{', '.join(known)}; leave it out with [sites.{site.name}] where, or name it in `labels`"
        if label
        else f"site {site.name}: image {data.rows[row].id!r} has no label; leave it out with "
        f"[sites.{site.name}] where"
        for row, label in zip(rows, labels, strict=True)
        if label not in known
    ][:LABELS_TOLD]
    if problems or site.role != "source":
        return problems
    for part in ("train", "val"):
        found = set(data.labels(getattr(data.split, part), stage="source_classifier"))
        problems += [
            f"site {site.name}: no {part} image is {label!r}, so no classifier can be "
            f"{'trained' if part == 'train' else 'chosen'} (stage source_classifier)"
            for label in known
            if label not in found
        ]
    return problems


def judged_rows(data: SiteData) -> NDArray[np.int64]:
    """Test rows that the arms are scored on: those with a mask, or all where none has one.

    Sites often outline a part of a sweep's frames only (P1 Table 2: one in eight).
    """
    rows = data.split.test
    masked = rows[data.has_mask[rows]]
    return masked if len(masked) else rows


def training_rows(data: SiteData, stage: str) -> NDArray[np.int64]:
    """Rows a stage trains on. Self-supervision needs no labels, so all but the test rows serve.

    They are also the pool that images are selected from.
    """
    if stage in POOL_STAGES:
        return np.sort(np.concatenate([data.split.train, data.split.val]))
    return data.split.train
