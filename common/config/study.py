"""The study: one frozen model for everything a researcher may set."""

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from common.config.arms import (
    BOUND_ARMS,
    DUAL_ARMS,
    ENCODER_ARMS,
    SEGMENTATION_ARMS,
    ArmName,
)
from common.config.base import Table, option
from common.config.data import DataSpec, SplitConfig
from common.config.selection import (
    Annotate,
    Classify,
    Diffusion,
    FinetuneSelected,
    Reconstruct,
    Score,
    Select,
    SourceClassifier,
    Sphere,
    cohort_problems,
)
from common.config.stages import (
    Adapt,
    Compute,
    Contrastive,
    Evaluate,
    Federation,
    Finetune,
    Infusion,
    Mim,
    Plugin,
    Pretrain,
    Wire,
)

SELECTING = ("sphere", "classify", "finetune_selected", "source_classifier", "diffusion")
"""Stages of the second half: three at the targets, two at the sources."""
REHEARSAL = "a rehearsal: phantom images drawn at the sites, one step a stage"
"""What `untrained` says of a study for which a site draws a phantom, and opens none of its images.

It stands in a key that there is: a site's policy lets a rehearsal pass as it does the study.
"""
Patterns = dict[str, str | tuple[str, ...]]


class Site(Table):
    """One hospital. All but the role describes its data and never crosses to anybody else."""

    role: Literal["source", "target"] = Field(description="source: has masks and teaches")
    folder: str | None = option(None, "folder with the manifest, relative to --data-root")
    probe: str | None = option(None, "instead of a folder: a probe of the study's [phantom]")
    columns: dict[str, str] = option({}, "manifest column -> the file's column")
    extract: dict[str, str] = option(
        {}, "manifest column -> regular expression: the part of the cell that it finds, if any"
    )
    where: Patterns = option({}, "keep rows whose columns match (shell patterns)")
    drop: Patterns = option({}, "drop rows of which any column matches")
    test: Patterns = option({}, "these rows are the test set")
    reader: Plugin | None = option(None, "your own image reader, package.module:name")

    def spec(self) -> DataSpec:
        """The site's data as its reader wants it."""
        return DataSpec(
            folder=self.folder or self.probe or ".",
            **self.model_dump(exclude={"role", "folder", "probe"}, exclude_defaults=True),
        )


class Phantom(Table):
    """Synthetic sites, made before the study begins."""

    anatomy: Literal["wrist", "breast"] = option("wrist", "what is scanned")
    patients: int = option(16, "patients a probe", ge=3, le=100_000)
    sweeps: int = option(1, "videos a patient", ge=1, le=100)
    frames: int = option(8, "frames a video", ge=1, le=10_000)
    side: int = option(224, "pixels a side", ge=32, le=1024)
    seed: int = option(0, "of the synthetic world", ge=0, lt=2**31)


class Model(Table):
    """The network every branch is made of."""

    preset: Literal["tiny", "small", "r50-vit-b16"] = option(
        "r50-vit-b16", "sizes of the TransUNet", paper="P1 3.2.1: r50-vit-b16"
    )
    image_size: int = option(224, "pixels a side; a multiple of 16", paper="P1 224", ge=16, le=2048)
    geometry: Literal["official", "timm"] = option("official", "timm: fits timm's ImageNet weights")
    dropout: float = option(0.1, "after the position embedding and in the MLPs", ge=0, lt=1)
    weights: str = option("", "a local file with ImageNet-21k or TransUNet weights")
    name: Plugin | None = option(None, "your own model instead, package.module:name")
    options: dict[str, Any] = option({}, "passed to your own model, or overrides of the preset")


class Study(Table):
    """Sites, stages and arms. Immutable; its canonical JSON has a SHA-256, the study's digest."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="of the study")
    seed: int = option(0, "of everything random in training", ge=0, lt=2**31)
    arms: tuple[ArmName | Plugin, ...] = option(
        ("ensemble", "lower"),
        "what is compared; the first that segments and the first that selects lead; or your own "
        "selection strategy, package.module:name",
    )
    classes: tuple[str, ...] = option((), "names of label-mask values 1..; empty: binary masks")
    labels: tuple[str, ...] = option(
        ("benign", "malignant"), "what the classifiers tell apart; the second is the positive one"
    )
    sites: dict[str, Site] = Field(description="the hospitals")
    phantom: Phantom | None = option(None, "synthetic sites for sites that name a probe")
    split: SplitConfig = option(SplitConfig, "train, validation and test at every site")
    model: Model = option(Model, "the network")
    pretrain: Pretrain = option(Pretrain, "sharing of the pretraining")
    mim: Mim = option(Mim, "the generative branch")
    contrastive: Contrastive = option(Contrastive, "the contrastive branch")
    finetune_mim: Finetune = option(Finetune, "the generative branch at the sources")
    finetune_contrastive: Finetune = option(Finetune, "the contrastive branch at the sources")
    lower: Finetune = option(Finetune, "source only, no pretraining")
    upper: Finetune = option(Finetune, "with the targets' masks: what labels would give")
    adapt: Adapt = option(Adapt, "the ensemble teaches its branches")
    infusion: Infusion = option(Infusion, "the infusion head")
    source_classifier: SourceClassifier = option(SourceClassifier, "classifiers at the sources")
    diffusion: Diffusion = option(Diffusion, "the source's images learned as a diffusion model")
    reconstruct: Reconstruct = option(Reconstruct, "target images redrawn in the source's style")
    sphere: Sphere = option(Sphere, "images and reconstructions on the hypersphere")
    score: Score = option(Score, "the dual score")
    select: Select = option(Select, "budgets of annotation")
    annotate: Annotate = option(Annotate, "how labels of the selected come back")
    classify: Classify = option(Classify, "classifiers on the selected images")
    finetune_selected: FinetuneSelected = option(
        FinetuneSelected, "the ensemble on the selected images' masks"
    )
    evaluate: Evaluate = option(Evaluate, "what is measured")
    federation: Federation = option(Federation, "aggregation")
    wire: Wire = option(Wire, "tensors on the way")
    compute: Compute = option(Compute, "the machine")
    untrained: str = option(
        "", "why the numbers mean nothing; set by --smoke and --rehearse, shown on every report"
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the source sites, in the study's order."""
        return tuple(name for name, site in self.sites.items() if site.role == "source")

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the target sites, in the study's order."""
        return tuple(name for name, site in self.sites.items() if site.role == "target")

    @property
    def segmentation_arms(self) -> tuple[str, ...]:
        """The arms that segment, in the study's order."""
        return tuple(arm for arm in self.arms if arm in SEGMENTATION_ARMS)

    @property
    def selection_arms(self) -> tuple[str, ...]:
        """The arms that select images and classify, in the study's order."""
        return tuple(arm for arm in self.arms if arm not in SEGMENTATION_ARMS)

    @property
    def own_parts(self) -> tuple[str, ...]:
        """Parts of somebody's own, `package.module:name`, that the study has the sites run."""
        named = [
            self.model.name,
            self.infusion.confidence,
            *(getattr(self, s).loss for s in ("finetune_mim", "finetune_contrastive", "lower")),
            self.upper.loss,
            self.finetune_selected.loss,
            *self.selection_arms,
        ]
        return tuple(dict.fromkeys(name for name in named if name and ":" in name))

    @property
    def channels(self) -> int:
        """Sigmoid channels of a segmentation: one a class, one for binary masks."""
        return max(1, len(self.classes))

    @property
    def representation(self) -> bool:
        """Whether the encoders themselves are scored, with no segmentation anywhere."""
        return self.evaluate.kind == "representation"

    @property
    def rehearsal(self) -> bool:
        """Whether every site works on a phantom of its own making, and the numbers mean nothing."""
        return self.untrained == REHEARSAL

    @property
    def synthetic(self) -> bool:
        """Whether any site's images are a phantom's, as far as the study says."""
        return self.phantom is not None or self.rehearsal

    @property
    def unit_patches(self) -> int:
        """ViT patches a side of a MIM mask unit (2 from 192 px up, else 1)."""
        return self.mim.unit_patches or (2 if self.model.image_size >= 192 else 1)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """The one JSON text of this study: every key resolved, sorted, no white space."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True
        )

    def for_sites(self) -> "Study":
        """The study as it crosses to the sites: no folder, column, pattern or path of anybody."""
        # Sites take their start from the server, but a study with `from_weights` must name a file.
        weights = "at the server" if self.model.weights else ""
        diffusion = {
            key: "at the site" if getattr(self.diffusion, key) else ""
            for key in ("weights", "text_weights")
        }
        lpips = "at the site" if self.reconstruct.lpips_weights else ""
        return self.model_copy(
            update={
                "sites": {name: Site(role=site.role) for name, site in self.sites.items()},
                "phantom": None,
                "model": self.model.model_copy(update={"weights": weights}),
                "source_classifier": self.source_classifier.model_copy(update={"weights": {}}),
                "diffusion": self.diffusion.model_copy(update=diffusion),
                "reconstruct": self.reconstruct.model_copy(update={"lpips_weights": lpips}),
            }
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [
            *self._site_problems(),
            *self._arm_problems(),
            *self._size_problems(),
            *self._stage_problems(),
            *self._selection_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _site_problems(self) -> list[str]:
        problems = []
        if not self.sources and not self.representation:
            problems.append('no site has role = "source": nobody can teach')
        if not self.targets:
            problems.append('no site has role = "target": nobody to adapt to')
        for name, site in self.sites.items():
            if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 32:
                problems.append(
                    f"sites.{name}: a name has letters, digits, - and _ only, at most 32"
                )
            if site.folder and site.probe:
                problems.append(f"sites.{name}: folder or probe, not both")
            if site.probe and self.phantom is None:
                problems.append(f"sites.{name}: names a probe, but the study has no [phantom]")
        return problems

    def _arm_problems(self) -> list[str]:
        doubled = sorted({arm for arm in self.arms if self.arms.count(arm) > 1})
        problems = [f"arms: {arm} is named twice" for arm in doubled]
        if not self.arms:
            problems.append("arms: name at least one")
        if self.representation:
            problems += [
                f'arms: {arm} is no single encoder, so evaluate.kind = "representation" cannot '
                f"score it; there are {', '.join(ENCODER_ARMS)}"
                for arm in self.arms
                if arm not in ENCODER_ARMS
            ]
            if self.pretrain.scope == "per_site" and self.sources:
                problems.append(
                    "pretrain.scope: per_site gives a source no encoder of its own to be scored by"
                )
        elif "untrained" in self.arms:
            problems.append('arms: untrained needs evaluate.kind = "representation"')
        if len(set(self.classes)) < len(self.classes):
            problems.append("classes: a name stands twice")
        started = any(
            stage.from_weights
            for stage in (self.lower, self.upper, self.finetune_mim, self.finetune_contrastive)
        )
        if started and not self.model.weights:
            problems.append("from_weights: no file is named in [model] weights")
        if self.evaluate.reference and (self.representation or not self.segmentation_arms):
            problems.append("evaluate.reference: the study has nothing that segments")
        if self.evaluate.reference and self.wire.dtype != "float32":
            problems.append('evaluate.reference: needs wire.dtype = "float32"')
        return problems

    def _size_problems(self) -> list[str]:
        side, unit = self.model.image_size, 16 * self.unit_patches
        if side % 16:
            return [f"model.image_size: {side} does not tile into patches of 16"]
        if side % unit:
            return [f"model.image_size: {side} does not tile into mask units of {unit} px"]
        return []

    def _stage_problems(self) -> list[str]:
        allowed = dict.fromkeys(("mim", "contrastive", "upper", "adapt"), self.targets)
        allowed |= dict.fromkeys(SELECTING[:3], self.targets)
        allowed |= dict.fromkeys(("finetune_mim", "finetune_contrastive", "lower"), self.sources)
        allowed |= dict.fromkeys(SELECTING[3:], self.sources)
        problems = []
        for stage, sites in allowed.items():
            table = getattr(self, stage)
            problems += [
                f"{stage}.participants: {site!r} is none of {', '.join(sites)}"
                for site in table.participants or ()
                if site not in sites
            ]
            if table.participants == ():
                problems.append(f"{stage}.participants: name at least one site")
            micro, batch = self.compute.micro_batch, table.batch
            if stage not in SELECTING and micro is not None and batch is not None and micro > batch:
                problems.append(f"{stage}.batch: {batch} is smaller than [compute] micro_batch")
        return problems

    def _selection_problems(self) -> list[str]:
        selecting = self.selection_arms
        problems = []
        if not selecting:
            if "ensemble_selected" in self.arms:
                problems.append("arms: ensemble_selected needs an arm that selects, such as dual")
            return problems
        if self.representation:
            problems.append('arms: selecting arms need evaluate.kind = "segmentation"')
        if not self.sources:
            problems.append('no site has role = "source": nobody has labels to start from')
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            problems.append(f"labels: {list(self.labels)} are not two different classes at least")
        if "ensemble_selected" in self.arms and all(arm in BOUND_ARMS for arm in selecting):
            problems.append("arms: ensemble_selected needs an arm that selects, such as dual")
        if self.diffusion.preset == "stable-diffusion" and not self.diffusion.weights:
            problems.append("diffusion.weights: stable-diffusion needs a local folder")
        if self.diffusion.text in ("clip", "biomedclip") and not self.diffusion.text_weights:
            problems.append(f"diffusion.text_weights: {self.diffusion.text} needs a local folder")
        duals = [arm for arm in selecting if arm in DUAL_ARMS]
        problems += cohort_problems(self.score, duals)
        if self.model.image_size % 32 and duals:
            problems.append(
                f"model.image_size: {self.model.image_size} is no multiple of 32, which the "
                "diffusion model needs"
            )
        names = [arm.rpartition(":")[2] for arm in selecting]
        problems += [
            f"arms: two of them are named {name}; a strategy of your own needs a name of its own"
            for name in sorted({name for name in names if names.count(name) > 1})
            if any(":" in arm and arm.endswith(f":{name}") for arm in selecting)
        ]
        micro, batch = self.compute.micro_batch, self.sphere.batch or self.compute.batch
        if micro is not None and batch % micro == 1:
            problems.append(
                f"sphere.batch: {batch} in parts of [compute] micro_batch = {micro} leaves one "
                "image by itself, and BatchNorm needs two"
            )
        known = {self.sphere.architecture, *self.classify.architectures}
        problems += [
            f"source_classifier.weights: {name!r} is no architecture of this study"
            for name in self.source_classifier.weights
            if name not in known
        ]
        return problems
