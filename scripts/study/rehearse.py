"""A study as it is rehearsed: the same stages and messages, one step each, on phantom images."""

from common.config.study import REHEARSAL, Site, Study

STAGES = (
    "mim", "contrastive", "finetune_mim", "finetune_contrastive", "lower", "upper", "adapt",
    "source_classifier", "diffusion", "sphere", "classify", "finetune_selected",
)  # fmt: skip
BATCH = 16
"""Images of a step at most: a site draws a few only."""


def rehearsal_of(study: Study) -> Study:
    """The study with one round of one step a stage, marked so that sites draw a phantom.

    Its name and every message's tensors and scalars are the study's own: the policies that let the
    study through let this through, and those that do not say so now. Its numbers mean nothing.
    """
    tables = {}
    for stage in STAGES:
        table = getattr(study, stage)
        batch = None if table.batch is None else min(table.batch, BATCH)
        small = {"rounds": 1, "epochs": 1, "steps": 1, "batch": batch}
        tables[stage] = table.model_copy(update=small)
    micro = study.compute.micro_batch
    changes = {
        **tables,
        # One step makes no embedding that can choose, and no diffusion model that could remember.
        "sphere": tables["sphere"].model_copy(update={"min_angle": 0.0, "min_rank": 1.0}),
        "diffusion": tables["diffusion"].model_copy(
            update={"memorisation_samples": 8, "memorisation_threshold": 1.0}
        ),
        "reconstruct": study.reconstruct.model_copy(
            update={"steps": min(2, study.reconstruct.steps)}
        ),
        "score": study.score.model_copy(update={"iterations": 2}),
        "select": study.select.model_copy(update={"vaal_epochs": 1}),
        # No expert is asked for phantom images.
        "annotate": study.annotate.model_copy(update={"labels": "hidden"}),
        "evaluate": study.evaluate.model_copy(update={"bootstrap": 100, "overlays": 0}),
        "compute": study.compute.model_copy(
            update={
                "batch": min(study.compute.batch, BATCH),
                "micro_batch": None if micro is None else min(micro, BATCH),
            }
        ),
        "sites": {name: Site(role=site.role) for name, site in study.sites.items()},
        "phantom": None,
        "untrained": REHEARSAL,
    }
    return Study.model_validate(study.model_copy(update=changes).model_dump())
