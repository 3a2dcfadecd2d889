"""From arms to trainings: what has to be trained, in which order, starting from what.

Both sides derive the same plan from the same study, so an instruction needs to name a training
only. Arms that need an equal training share it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.config.stages import Adapt, Contrastive, Finetune, Infusion, Mim
from common.config.study import Study

Stage = Literal[
    "mim", "contrastive", "finetune_mim", "finetune_contrastive", "lower", "upper", "adapt"
]
Settings = Mim | Contrastive | Finetune | Adapt

UNTRAINED = "untrained"
"""The member that no training makes: the encoder at its random start."""


@dataclass(frozen=True)
class Training:
    """One run of a stage over its rounds.

    Attributes:
        key: `<arm>/<stage>`, with `@<site>` behind it where it belongs to one target. It is also
            the training's folder below `RUN/state/`.
        stage: What its sites do.
        settings: The stage's table with the arm's own changes.
        participants: The sites that train, in the study's order.
        start: Keys of the trainings whose weights it starts from; empty: the initial weights.
            One for fine-tuning (its encoder is taken), the members for `adapt`.
        member: 0, or the index of a further member of a homogeneous ensemble: another seed.
    """

    key: str
    stage: Stage
    settings: Settings
    participants: tuple[str, ...]
    start: tuple[str, ...] = ()
    member: int = 0

    @property
    def arm(self) -> str:
        """The arm that the training is named after."""
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Arm:
    """What is compared: members, and how they are fused.

    Attributes:
        name: The arm.
        members: For every site the keys of the trainings whose predictions are fused there. A
            member of an `adapt` training is `<key>#<index>`; `UNTRAINED` has no training. Where
            representations are scored, each arm has one member: its pretraining.
        infusion: How they are fused (one member: not at all).
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    infusion: Infusion


@dataclass(frozen=True)
class Plan:
    """All trainings of a study, each after what it starts from, and its arms."""

    trainings: Mapping[str, Training]
    arms: Mapping[str, Arm]

    @property
    def predictors(self) -> dict[str, tuple[str, ...]]:
        """Which sites need the predictions of which member: key -> sites."""
        needed: dict[str, dict[str, None]] = {}
        for arm in self.arms.values():
            for site, members in arm.members.items():
                for member in members:
                    needed.setdefault(member, {})[site] = None
        return {member: tuple(sites) for member, sites in needed.items()}


def make_plan(study: Study) -> Plan:
    """Derive the trainings and arms of a study.

    With `pretrain.scope = "per_site"` each target has its own encoder and so its own members; at
    a source, which belongs to no target, all of them are fused.
    """
    return _Planner(study).plan()


def split_member(member: str) -> tuple[str, int]:
    """`"ensemble_adapted/adapt#1"` -> `("ensemble_adapted/adapt", 1)`; no `#` means member 0."""
    key, _, index = member.partition("#")
    return key, int(index or 0)


class _Planner:
    """Collects trainings; an equal one that is there already is taken instead."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.trainings: dict[str, Training] = {}
        self.known: dict[tuple[object, ...], str] = {}

    def plan(self) -> Plan:
        arms: dict[str, Arm] = {name: self._arm(name) for name in self.study.arms}
        return Plan(self.trainings, arms)

    def _add(self, training: Training) -> str:
        identity = (
            training.stage,
            training.settings,
            training.participants,
            training.start,
            training.member,
        )
        if identity not in self.known:
            self.known[identity] = training.key
            self.trainings[training.key] = training
        return self.known[identity]

    def _arm(self, name: str) -> Arm:
        if name.startswith("ensemble_") and name != "ensemble_adapted":
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
