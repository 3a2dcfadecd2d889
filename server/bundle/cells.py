"""Which classifiers of a run make a bundle, and their weights."""

from collections.abc import Sequence
from pathlib import Path

from common.bundle.ensemble import EnsembleConfig, MemberEntry
from common.config.data import nearest
from common.config.study import Study
from common.errors import InputError
from common.plan import Cell, Plan
from common.plan.types import arm_name
from common.wire.payload import digest_of
from server.bundle.members import Chosen
from server.checkpoint import RunFolder
from server.results_selection import leading_selection

ALL = "all"
"""In the place of an architecture: every one of the study's."""


def choose_classifiers(
    run: Path,
    study: Study,
    plan: Plan,
    arm: str = "",
    budget: float | None = None,
    architectures: Sequence[str] = (),
) -> Chosen:
    """Take classifiers out of a run.

    Nothing is chosen by what the run found on its test images: a figure that was used to choose
    would no longer say what to expect.

    Args:
        run: The run folder.
        study: Its study.
        plan: Of that study.
        arm: A selecting arm; "" is the study's first that selects.
        budget: Share of the pool that was annotated; None is the arm's largest.
        architectures: Names, or "all"; none is the study's first. Several are averaged.

    Raises:
        InputError: If there is no such classifier, or a training has not finished.
    """
    cells = _cells(run, plan, arm, budget)
    names = [cell.architecture for cell in cells]
    wanted = names if list(architectures) == [ALL] else list(architectures) or names[:1]
    problems = [
        f"{run}: no classifier is a '{name}'{nearest(name, names)}"
        for name in wanted
        if name not in names
    ]
    if len(set(wanted)) < len(wanted):
        problems.append(f"--architecture: {', '.join(wanted)} names one twice")
    if problems:
        raise InputError(problems)
    chosen = [next(cell for cell in cells if cell.architecture == name) for name in wanted]
    folder = RunFolder(run)
    states, entries = [], []
    for cell in chosen:
        record = folder.checkpoint(cell.training).load(cell.training)
        if not record.finished:
            problems.append(
                f"{run}: training {cell.training} has not finished; --resume the run first"
            )
            continue
        state = folder.checkpoint(cell.training).result(record)
        stage = plan.trainings[cell.training].stage
        entries.append(
            MemberEntry(
                name=cell.key, stage=stage, sha256=digest_of(state), architecture=cell.architecture
            )
        )
        states.append(state)
    if problems:
        raise InputError(problems)
    config = EnsembleConfig(
        task="classification",
        study=study.name,
        arm=chosen[0].arm,
        budget=chosen[0].budget,
        members=tuple(entries),
        model=study.model.model_copy(update={"weights": "", "name": None}),
        classes=study.labels,
        synthetic=study.synthetic,
    )
    return Chosen(config, tuple(states))


def _cells(run: Path, plan: Plan, arm: str, budget: float | None) -> list[Cell]:
    """The classifiers of one arm and budget, in the study's order."""
    arms = list(dict.fromkeys(cell.arm for cell in plan.cells.values()))
    leading = leading_selection(plan)
    first = leading if leading in arms else arms[0]
    name = arm_name(arm) if arm else first
    if name not in arms:
        raise InputError(f"{run}: no arm '{arm}' has classifiers{nearest(arm, arms)}")
    of_arm = [cell for cell in plan.cells.values() if cell.arm == name]
    budgets = sorted({cell.budget for cell in of_arm})
    share = budgets[-1] if budget is None else budget
    if share not in budgets:
        told = ", ".join(f"{known:g}" for known in budgets)
        raise InputError(f"{run}: {name} has no classifier at budget {share:g}; there are {told}")
    return [cell for cell in of_arm if cell.budget == share]
