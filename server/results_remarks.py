"""What a reader must know beside the second half's numbers, in sentences."""

import math
from collections.abc import Iterator, Mapping, Sequence

from common.config.arms import BOUND_ARMS
from common.config.selection import budget_name
from common.formats import SelectedResult, SelectionResults
from common.plan import Plan, Selection

BY_QUOTA = "per site, by quota"
ONE_THRESHOLD = "one threshold over all sites"

EXACT, COHORT_ARM = "dual", "dual_cohort"

POINTWISE = ("dual", "random", "entropy", "bald", "lfosa")
"""Strategies that score each image by itself, so that one threshold can cut all sites' pools."""

PAIR = 2
"""Images that a training step needs."""

LEAST_ANGLE, LEAST_RANK = 0.02, 2.0
"""Mean pairwise angle (radians) and effective rank below which embeddings can choose nothing."""

CONTRAST_LOST = 0.5
"""A reconstruction that keeps less of the lesions' contrast is worth a note."""


def how(selection: Selection) -> str:
    """How an arm chose over the sites, in the report's words."""
    if selection.arm == "full":
        return "every image"
    if selection.strategy not in POINTWISE:
        return BY_QUOTA
    if selection.budget == "per_site":
        return "per site, each its own share"
    return ONE_THRESHOLD


def remarks(
    plan: Plan,
    results: SelectionResults,
    annotated: Mapping[tuple[str, float], Mapping[str, int]],
) -> list[str]:
    """What a reader must know of these numbers."""
    return [
        *_prevalence(results),
        *_choices(plan, results),
        *_exactness(plan, results),
        *_lacking(results, annotated),
        *_contrast(results),
        *_collapsed(results),
    ]


def prevalence(test: Mapping[str, Mapping[str, int]]) -> tuple[str, float]:
    """The commonest label of all test images, and its share."""
    total: dict[str, int] = {}
    for counts in test.values():
        for label, count in counts.items():
            total[label] = total.get(label, 0) + count
    if not sum(total.values()):
        return "", math.nan
    label = max(total, key=lambda name: total[name])
    return label, total[label] / sum(total.values())


def _prevalence(results: SelectionResults) -> list[str]:
    label, share = prevalence(results.test)
    if not label:
        return []
    below = sum(
        cell.pooled["accuracy"].mean < share for cell in results.cells if "accuracy" in cell.pooled
    )
    said = (
        f"{share:.1%} of the targets' test images are {label}: who always says {label!r} reaches "
        "that accuracy. Balanced accuracy and AUROC do not reward it."
    )
    return [
        f"{said} {below} of {len(results.cells)} classifiers lie below it."
        if below
        else f"{said} No classifier lies below it."
    ]


def _choices(plan: Plan, results: SelectionResults) -> list[str]:
    found = []
    selections = plan.selections.values()
    quota = [result.arm for result in results.selected if result.words == BY_QUOTA]
    if quota:
        found.append(
            f"{_listed(quota)} ran per site, by quota: such a choice looks at all images of a pool "
            "together, and the pools do not meet."
        )
    if any(s.strategy == "lfosa" for s in selections):
        found.append(
            "lfosa was made to tell known from unknown classes. With a closed set of classes it "
            "picks the images that the classifier is surest of."
        )
    return found


def cohorts(selection: Selection, result: SelectedResult) -> dict[str, int]:
    """The sites whose minimum cohort kept an arm's choice from being the exact one, and how large.

    A quota that a site fills by itself needs no number of anybody, and is what it is.
    """
    by_numbers = selection.strategy == "dual" or result.words == ONE_THRESHOLD
    if not by_numbers or selection.arm in BOUND_ARMS:
        return {}
    told = result.cohort or dict.fromkeys(result.pool, selection.settings.min_cohort)
    return {site: images for site, images in told.items() if images > 1}


def _exactness(plan: Plan, results: SelectionResults) -> list[str]:
    """Which choices are not exactly the pooled ones, and what is known of how far they are off."""
    chosen = {result.arm: result for result in results.selected}
    inexact = {
        arm: of_sites
        for arm, result in chosen.items()
        if (of_sites := cohorts(plan.selections[arm], result))
    }
    # Arms that differ in their cohort alone: the one without is the other's exact choice.
    exact = EXACT if results.main == EXACT and EXACT in chosen and EXACT not in inexact else ""
    found, alike = [], dict[tuple[str, str], list[str]]()
    for arm, of_sites in inexact.items():
        limits = ", ".join(f"{site} {images}" for site, images in of_sites.items())
        shares = chosen[arm].overlap if exact and arm == COHORT_ARM else {}
        distance = (
            f"It shares {_shares(shares)} of the exact choice, {exact}'s."
            if shares
            else "How far it is from that cannot be known here, as no exact choice was made beside "
            f"it; in a simulation the arm {COHORT_ARM} beside {EXACT} measures it."
        )
        alike.setdefault((limits, distance), []).append(arm)
    for (limits, distance), arms in alike.items():
        found.append(
            f"{_listed(arms)}: with a minimum cohort (images: {limits}) small clusters, cells and "
            "counts were merged or held back, so the choice is not exactly the one that pooling "
            f"would give. {distance}"
        )
    for arm, of_sites in inexact.items():
        known = [*_number_chosen(chosen[arm]), *_held_back(chosen[arm], of_sites)]
        if known:
            found.append(f"{arm}: {'; '.join(known)}.")
    return found


def _number_chosen(result: SelectedResult) -> Iterator[str]:
    for budget, due in result.due.items():
        number = sum(result.selected.get(budget, {}).values())
        if number != due:
            yield f"{number} images were chosen at {_budget(budget)} where {due} were due"


def _held_back(result: SelectedResult, of_sites: Mapping[str, int]) -> Iterator[str]:
    regrouped = sum(result.regrouped.values())
    if regrouped:
        yield (
            f"{regrouped} of {sum(result.pool.values())} images were counted in another cell of "
            "uncertainty or distance than their own, or in none"
        )
    silent = [site for site, least in of_sites.items() if result.pool.get(site, 0) < least]
    if silent:
        yield f"{_listed(silent)} had fewer images than the cohort and told nothing of them"


def _lacking(
    results: SelectionResults, annotated: Mapping[tuple[str, float], Mapping[str, int]]
) -> list[str]:
    """Choices that were not annotated in full, or of which a site has nothing to train on."""
    found = []
    chosen = {result.arm: result.selected for result in results.selected}
    for (arm, budget), sites in annotated.items():
        name = budget_name(budget)
        wanted = chosen.get(arm, {}).get(name, {})
        title = f"{arm}, {100 * budget:g} %"
        missing = sum(max(0, count - sites.get(site, 0)) for site, count in wanted.items())
        if missing:
            found.append(
                f"{title}: {missing} of {sum(wanted.values())} selected images were not annotated."
            )
        idle = [site for site in wanted if sites.get(site, 0) < PAIR]
        if idle:
            found.append(
                f"{title}: {_listed(idle)} had fewer than {PAIR} annotated images and trained no "
                "classifier with them."
            )
    return found


def _contrast(results: SelectionResults) -> list[str]:
    return [
        f"{site}: its reconstructions keep {_percent(found.metrics['contrast_ratio'])} of the "
        "lesions' contrast, so the distance to them says little about the lesion."
        for site, found in results.reconstruction.items()
        if found.role == "target" and found.metrics.get("contrast_ratio", 1.0) < CONTRAST_LOST
    ]


def _collapsed(results: SelectionResults) -> list[str]:
    """Arms whose embeddings are nearly all alike, told once for arms that share them."""
    alike: dict[str, list[str]] = {}
    for result in results.selected:
        sites = [
            f"{site} (mean angle {at['mean_angle']:.2g}, effective rank {at['effective_rank']:.2g})"
            for site, at in result.embedding.items()
            if collapsed(at)
        ]
        if sites:
            alike.setdefault(_listed(sites), []).append(result.arm)
    return [
        f"{_listed(arms)}: the embeddings at {sites} are nearly all alike, so the choice there is "
        "close to a lottery."
        for sites, arms in alike.items()
    ]


def collapsed(embedding: Mapping[str, float]) -> bool:
    """Whether a site's embeddings are too alike to choose by."""
    return embedding["mean_angle"] < LEAST_ANGLE or embedding["effective_rank"] < LEAST_RANK


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.1%} at {_budget(name)}" for name, share in shares.items())


def _budget(name: str) -> str:
    return f"{name.replace('_', '.')} %"


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
