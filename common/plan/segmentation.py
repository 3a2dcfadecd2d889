"""The first half of a plan (P1): from arms that segment to trainings."""

from collections.abc import Callable
from typing import Literal

from common.config.selection import budget_name
from common.config.stages import Finetune
from common.config.study import Study
from common.plan.types import UNTRAINED, Arm, Selection, Settings, Stage, Training


class SegmentationPlanner:
    """Derives the members of each arm that segments.

    With `pretrain.scope = "per_site"` each target has its own encoder and so its own members; at
    a source, which belongs to no target, all of them are fused.

    Args:
        study: The study.
        add: Takes a training into the plan, and gives the key that it (or an equal one) has there.
    """

    def __init__(self, study: Study, add: Callable[[Training], str]) -> None:
        self.study = study
        self._add = add

    def arms(self) -> dict[str, Arm]:
        """The arms but `ensemble_selected`, whose trainings wait for a selection."""
        names = [arm for arm in self.study.segmentation_arms if arm != "ensemble_selected"]
        return {name: self._arm(name) for name in names}

    def _arm(self, name: str) -> Arm:
        if name in ("ensemble_entropy", "ensemble_margin", "ensemble_mean"):
            infusion = self.study.infusion.model_copy(
                update={"confidence": name.removeprefix("ensemble_")}
            )
        else:
            infusion = self.study.infusion
        scopes = (
            [(site,) for site in self.study.targets]
            if self.study.pretrain.scope == "per_site" and not name.startswith(("lower", "upper"))
            else [self.study.targets]
        )
        members: dict[str, tuple[str, ...]] = {}
        everything: list[str] = []
        for sites in scopes:
            at = f"@{sites[0]}" if len(scopes) > 1 else ""
            base = self._base(name, sites, at)
            per_site = self._adapted(name, base, sites, at) if "adapted" in name else None
            for site in sites:
                members[site] = per_site[site] if per_site else base
            everything += [m for site in sites for m in members[site]]
        for site in self.study.sources:
            members[site] = tuple(dict.fromkeys(everything))
        return Arm(name, {site: members[site] for site in self.study.sites}, infusion)

    def _base(self, name: str, sites: tuple[str, ...], at: str) -> tuple[str, ...]:
        """The member trainings of an arm before any adaptation."""
        study = self.study
        gap = study.contrastive.min_frame_gap
        if name.startswith("ensemble"):
            return (self._mim("mim", sites, at), self._contrastive("contrastive", sites, at, gap))
        match name:
            case "mim":
                return (self._mim("mim", sites, at),)
            case "contrastive":
                return (self._contrastive("contrastive", sites, at, gap),)
            case "contrastive_content":
                return (self._contrastive(name, sites, at, gap, by="content"),)
            case "simclr":
                return (self._contrastive("simclr", sites, at, 0),)
            case "untrained":
                return (UNTRAINED,)
            case "homogeneous_mim":
                return (self._mim("mim", sites, at), self._mim(name, sites, at, member=1))
            case "homogeneous_contrastive":
                return (
                    self._contrastive("contrastive", sites, at, gap),
                    self._contrastive(name, sites, at, gap, member=1),
                )
            case "homogeneous_mixed":
                # P1 Table 8: gaps 15 and 20, each model with a seed of its own.
                return (
                    self._contrastive("contrastive", sites, at, gap),
                    self._contrastive(name, sites, at, gap + 5, member=2),
                )
            case "lower" | "lower_adapted":
                return (self._supervised("lower", "lower", study.lower, study.sources),)
            case "lower_plain":
                plain = study.lower.model_copy(update={"augmentation": False})
                return (self._supervised("lower_plain", "lower", plain, study.sources),)
            case "upper":
                return (self._supervised("upper", "upper", study.upper, study.targets),)
        raise AssertionError(name)

    def _sites(self, settings: Settings, default: tuple[str, ...]) -> tuple[str, ...]:
        wanted = settings.participants
        return tuple(s for s in default if s in wanted) if wanted is not None else default

    def _supervised(
        self, arm: str, stage: Stage, settings: Finetune, sites: tuple[str, ...]
    ) -> str:
        return self._add(Training(f"{arm}/{stage}", stage, settings, self._sites(settings, sites)))

    def _mim(self, arm: str, sites: tuple[str, ...], at: str, member: int = 0) -> str:
        settings = self.study.mim
        chosen = self._sites(settings, sites) or sites
        pretrained = self._add(Training(f"{arm}/mim{at}", "mim", settings, chosen, member=member))
        return self._finetuned(arm, "finetune_mim", pretrained, at, member)

    def _contrastive(
        self,
        arm: str,
        sites: tuple[str, ...],
        at: str,
        gap: int,
        member: int = 0,
        by: Literal["frames", "content"] | None = None,
    ) -> str:
        base = self.study.contrastive
        settings = base.model_copy(update={"min_frame_gap": gap, "gap": by or base.gap})
        chosen = self._sites(settings, sites) or sites
        pretrained = self._add(
            Training(f"{arm}/contrastive{at}", "contrastive", settings, chosen, member=member)
        )
        return self._finetuned(arm, "finetune_contrastive", pretrained, at, member)

    def _finetuned(
        self,
        arm: str,
        stage: Literal["finetune_mim", "finetune_contrastive"],
        pretrained: str,
        at: str,
        member: int,
    ) -> str:
        if self.study.representation:
            return pretrained  # the encoder itself is what is scored
        settings: Finetune = getattr(self.study, stage)
        sites = self._sites(settings, self.study.sources)
        return self._add(
            Training(f"{arm}/{stage}{at}", stage, settings, sites, (pretrained,), member)
        )

    def _adapted(
        self, arm: str, base: tuple[str, ...], sites: tuple[str, ...], at: str
    ) -> dict[str, tuple[str, ...]]:
        """Adapt members: one training over the sites, or one a site."""
        settings = self.study.adapt
        if arm == "lower_adapted":
            settings = settings.model_copy(update={"teacher": "self"})
        taking_part = self._sites(settings, sites) or sites
        groups = (
            [(site,) for site in taking_part] if settings.scope == "per_site" else [taking_part]
        )
        members = dict.fromkeys(sites, base)
        for group in groups:
            suffix = at or (f"@{group[0]}" if len(groups) > 1 else "")
            key = self._add(Training(f"{arm}/adapt{suffix}", "adapt", settings, group, base))
            adapted = tuple(f"{key}#{index}" for index in range(len(base)))
            for site in group if len(groups) > 1 else sites:
                members[site] = adapted
        return members

    def selected(self, selection: Selection) -> dict[str, Arm]:
        """`ensemble_selected_<budget>`: the ensemble, fine-tuned further on selected images."""
        return {
            f"ensemble_selected_{budget_name(budget)}": self._selected(selection, budget)
            for budget in selection.budgets
        }

    def _selected(self, selection: Selection, budget: float) -> Arm:
        study = self.study
        base = self._arm("ensemble")
        settings = study.finetune_selected
        sites = self._sites(settings, study.targets)
        name = f"ensemble_selected_{budget_name(budget)}"

        def further(start: str) -> str:
            branch = start.replace("/", "-")
            return self._add(
                Training(
                    f"{name}/{branch}/finetune_selected",
                    "finetune_selected",
                    settings,
                    sites,
                    (start,),
                    selection=selection.arm,
                    budget=budget,
                )
            )

        members = {
            site: tuple(further(start) for start in of_site)
            for site, of_site in base.members.items()
        }
        return Arm(name, members, study.infusion)
