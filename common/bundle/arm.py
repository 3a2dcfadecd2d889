"""Which arm of a study becomes a bundle where nobody names one."""

from common.plan import Arm, Plan


def bundle_arm(plan: Plan) -> str:
    """The first ensemble, else the first arm that segments; empty where none does."""
    return next((a for a in plan.arms if a.startswith("ensemble")), next(iter(plan.arms), ""))


def all_members(arm: Arm) -> tuple[str, ...]:
    """An arm's members at any site, each once."""
    return tuple(dict.fromkeys(m for of_site in arm.members.values() for m in of_site))
