"""Which members of a finished run make the ensemble, and their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.bundle.arm import all_members, bundle_arm
from common.bundle.ensemble import Calibration, EnsembleConfig, MemberEntry
from common.bundle.files import read_json
from common.config.data import nearest
from common.config.stages import Adapt
from common.config.study import Study
from common.errors import InputError
from common.models.branches import State, member_of
from common.plan import Arm, Plan, split_member
from common.wire.payload import digest_of
from server.checkpoint import RunFolder


@dataclass(frozen=True)
class Chosen:
    """An arm's members with their weights.

    Attributes:
        config: What `configs/ensemble.json` says.
        states: Each member's tensors as they crossed, in the config's order.
    """

    config: EnsembleConfig
    states: tuple[State, ...]


def choose(run: Path, study: Study, plan: Plan, arm_name: str, site: str) -> Chosen:
    """Take an arm's members out of a run.

    Args:
        run: The run folder.
        study: Its study.
        plan: Of that study.
        arm_name: An arm; "" is the one that the run assembled: its first ensemble.
        site: Whose members, where the arm has others at every site; "" takes all of them.

    Raises:
        InputError: If there is no such arm or site, a training has not finished, or weights are
            not those that the run assembled.
    """
    name = arm_name or bundle_arm(plan)
    if name not in plan.arms:
        raise InputError(f"{run}: the study has no arm '{name}'{nearest(name, plan.arms)}")
    arm = plan.arms[name]
    members = _members(run, arm, site)
    folder = RunFolder(run)
    problems, states, entries = [], [], []
    for member in members:
        key, index = split_member(member)
        record = folder.checkpoint(key).load(key)
        if not record.finished:
            problems.append(f"{run}: training {key} has not finished; --resume the run first")
            continue
        result = folder.checkpoint(key).result(record)
        training = plan.trainings[key]
        state = member_of(result, index) if training.stage == "adapt" else result
        entries.append(MemberEntry(name=member, stage=training.stage, sha256=digest_of(state)))
        states.append(state)
    problems += _changed(folder, entries)
    if problems:
        raise InputError(problems)
    config = EnsembleConfig(
        study=study.name,
        arm=name,
        members=tuple(entries),
        model=study.model.model_copy(update={"weights": ""}),
        classes=study.classes,
        infusion=arm.infusion,
        calibration=calibration_of(study, plan, members),
        synthetic=study.synthetic,
    )
    return Chosen(config, tuple(states))


def calibration_of(study: Study, plan: Plan, members: tuple[str, ...]) -> Calibration:
    """Whether the members' BatchNorm statistics fit any device at all."""
    if study.federation.norm == "local":
        return "required"
    settings = [plan.trainings[split_member(member)[0]].settings for member in members]
    adabn = any(isinstance(table, Adapt) and table.adabn for table in settings)
    return "advised" if adabn else "none"


def _members(run: Path, arm: Arm, site: str) -> tuple[str, ...]:
    """The arm's members at one site, or all of them."""
    if site and site not in arm.members:
        raise InputError(f"{run}: the study has no site '{site}'{nearest(site, arm.members)}")
    members = arm.members[site] if site else all_members(arm)
    if not members:
        raise InputError(f"{run}: arm {arm.name} has no member at {site}")
    return members


def _changed(folder: RunFolder, entries: list[MemberEntry]) -> list[str]:
    """Members whose weights are not those that the run wrote into `ensemble/`."""
    path = folder.folder / "ensemble" / "config.json"
    if not path.exists():
        return []
    assembled: Mapping[str, Mapping[str, str]] = read_json(path).get("members", {})
    return [
        f"{folder.folder}: the weights of {entry.name} are not those that were assembled"
        for entry in entries
        if entry.name in assembled and assembled[entry.name]["sha256"] != entry.sha256
    ]
