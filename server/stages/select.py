"""select: one cut through all targets' pools, found by counting; or each target its own share.

Strategies that score each image by itself are cut together where the budget is pooled; the others
choose by quota. The server learns counts only: how many keys begin with which digits, how many
images each site has chosen, and how many of these the leading arm has chosen too.
"""

from collections.abc import Mapping
from typing import Any

import torch

from common.config.arms import BOUND_ARMS
from common.config.selection import budget_name
from common.models.branches import State
from common.plan import Selection
from common.selection.cut import Cut, budget_of, narrow, open_cut
from server.checkpoint import Traffic
from server.context import ServerContext
from server.stages import choosing, score
from server.steps import ask_sites


def run(context: ServerContext, selection: Selection) -> None:
    """Have every target write its worklists of an arm.

    What has been ranked, counted or chosen before a kill is not asked again.

    Raises:
        StudyStopped: If a site refuses, naming it and why.
    """
    state = _state(context, selection)
    _rank(context, selection, state)
    if _by_one_threshold(selection, state):
        _cut(context, selection, state)
        _choose(context, selection, state)
    else:
        _quota(context, selection, state)


def outcome(context: ServerContext, selection: Selection) -> dict[str, Any]:
    """What an arm chose, `run` done.

    Returns:
        `pool`: site -> images; `selected`: budget's name -> site -> images; `overlap`: budget's
        name -> share of the leading arm's choice that it chose too, where that arm has the budget;
        `embedding`: site -> mean_angle and effective_rank; `words`: how it chose over the sites;
        `cohort`: site -> the smallest cohort that it applied; `regrouped`: site -> images that it
        counted in another cell than their own; `due`: budget's name -> images that it stands for.
    """
    state = _state(context, selection)
    names = [budget_name(budget) for budget in selection.budgets]
    selected = {
        name: {site: int(own[f"selected.{name}"]) for site, own in state["chosen"].items()}
        for name in names
    }
    return {
        "pool": _told(state, "pool"),
        "selected": selected,
        "overlap": _overlap(context, state, names),
        "embedding": score.embedding(context, selection),
        "words": _words(selection, state),
        "cohort": _told(state, "min_cohort"),
        "regrouped": _told(state, "regrouped"),
        "due": _due(selection, state),
    }


def traffic(context: ServerContext) -> Traffic:
    """Bytes of this stage by site, over all arms."""
    total: Traffic = {}
    for selection in context.plan.selections.values():
        for site, moved in _state(context, selection)["traffic"].items():
            at = total.setdefault(site, {"down": 0, "up": 0})
            at["down"] += moved["down"]
            at["up"] += moved["up"]
    return total


def _name(selection: Selection) -> str:
    return f"select/{selection.arm}"


def _state(context: ServerContext, selection: Selection) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "pool": {}, "pointwise": {}, "min_cohort": {}, "regrouped": {}, "cut": None, "chosen": {},
        "traffic": {},
    }  # fmt: skip
    return empty | (context.run.read_state(_name(selection)) or {})


def _by_one_threshold(selection: Selection, state: Mapping[str, Any]) -> bool:
    return selection.budget == "pooled" and all(state["pointwise"].values())


def _words(selection: Selection, state: Mapping[str, Any]) -> str:
    if 1.0 in selection.budgets and len(selection.budgets) == 1:
        return "every image"
    if _by_one_threshold(selection, state):
        return "one threshold over all sites"
    if all(state["pointwise"].values()):
        return "per site, each its own share"
    return "per site, by quota"


def _told(state: Mapping[str, Any], name: str) -> dict[str, int]:
    """A number of the sites that have chosen."""
    return {site: int(n) for site, n in state[name].items() if site in state["chosen"]}


def _due(selection: Selection, state: Mapping[str, Any]) -> dict[str, int]:
    """Images that each budget stands for, of all pools together or pool by pool."""
    pools = list(_told(state, "pool").values())
    together = [sum(pools)] if _by_one_threshold(selection, state) else pools
    return {
        budget_name(budget): sum(budget_of(budget, images) for images in together)
        for budget in selection.budgets
    }


def _overlap(
    context: ServerContext, state: Mapping[str, Any], names: list[str]
) -> dict[str, float]:
    leading = next((s for arm, s in context.plan.selections.items() if arm not in BOUND_ARMS), None)
    theirs = _state(context, leading)["chosen"] if leading else {}
    overlap = {}
    for name in names:
        wanted = sum(int(own.get(f"selected.{name}", 0)) for own in theirs.values())
        if wanted:
            shared = sum(int(own[f"shared.{name}"]) for own in state["chosen"].values())
            overlap[name] = shared / wanted
    return overlap


def _rank(context: ServerContext, selection: Selection, state: dict[str, Any]) -> None:
    left = [site for site in choosing.sites(context) if site not in state["pool"]]
    if not left:
        return
    weights: State | None = None
    if selection.strategy == "dual":
        weights = {"histograms": torch.from_numpy(score.histograms(context, selection))}
    elif selection.embedding:
        weights = context.result(selection.embedding)
    for reply in ask_sites(
        context, "query", "select", left, traffic=state["traffic"], key=selection.arm,
        step="rank", weights=weights,
    ):  # fmt: skip
        state["pool"][reply.site] = int(reply.metrics["images"])
        for name in ("pointwise", "min_cohort", "regrouped"):
            state[name][reply.site] = int(reply.metrics[name])
        context.run.write_state(_name(selection), state)


def _cut(context: ServerContext, selection: Selection, state: dict[str, Any]) -> None:
    """Narrow the cut of every budget, digit by digit.

    It is one of all pools together: where a site has left before any has chosen, it begins anew.
    """
    cut = Cut.from_json(state["cut"]) if state["cut"] else None
    while not state["chosen"]:
        sites = choosing.sites(context)
        same = set(sites) == set(state.get("cutting", context.study.targets))
        if cut is not None and cut.finished and same:
            return
        if cut is None or not same:
            images = sum(state["pool"][site] for site in sites)
            cut = open_cut([budget_of(b, images) for b in selection.budgets])
            state["cutting"] = list(sites)
        counts = {
            reply.site: score.counts_of(reply, selection, "counts")
            for reply in ask_sites(
                context, "query", "select", sites, traffic=state["traffic"],
                key=selection.arm, step="cut", round_=cut.round + 1,
                weights={"cut": torch.from_numpy(cut.to_words())},
            )
        }  # fmt: skip
        cut = narrow(cut, counts)
        state["cut"] = cut.to_json()
        context.run.write_state(_name(selection), state)


def _choose(context: ServerContext, selection: Selection, state: dict[str, Any]) -> None:
    """Tell every site the cut, and of images that are equal to the last bit its own share."""
    cut = Cut.from_json(state["cut"])
    for site in choosing.sites(context):
        if site in state["chosen"]:
            continue
        for reply in ask_sites(
            context, "query", "select", [site], traffic=state["traffic"], key=selection.arm,
            step="choose", weights={"cut": torch.from_numpy(cut.to_words(site))},
        ):  # fmt: skip
            state["chosen"][site] = dict(reply.metrics)
            context.run.write_state(_name(selection), state)


def _quota(context: ServerContext, selection: Selection, state: dict[str, Any]) -> None:
    left = [site for site in choosing.sites(context) if site not in state["chosen"]]
    for reply in ask_sites(
        context, "query", "select", left, traffic=state["traffic"], key=selection.arm,
        step="quota",
    ):  # fmt: skip
        state["chosen"][reply.site] = dict(reply.metrics)
        context.run.write_state(_name(selection), state)
