"""What a reader must know beside the second half's numbers, in sentences."""

import math
from collections.abc import Mapping, Sequence

from common.config.selection import budget_name
from common.formats import SelectionResults
from common.plan import Plan, Selection

BY_QUOTA = "per site, by quota"

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
    return "one threshold over all sites"


def remarks(
    plan: Plan,
    results: SelectionResults,
    annotated: Mapping[tuple[str, float], Mapping[str, int]],
) -> list[str]:
    """What a reader must know of these numbers."""
    return [
        *_prevalence(results),
        *_choices(plan, results),
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
    overlaps = {result.arm: result.overlap for result in results.selected}
    for selection in selections:
        if selection.strategy != "dual" or selection.settings.min_cohort == 0:
            continue
        said = (
            f"{selection.arm}: clusters and cells of fewer than {selection.settings.min_cohort} "
            "images were merged, so it is not exactly the choice that pooling would give."
        )
        shares = overlaps.get(selection.arm, {})
        if shares and selection.arm != results.main:
            said += f" It shares {_shares(shares)} with {results.main}'s choice."
        else:
            said += " The distance was not measured: no exact arm ran beside it."
        found.append(said)
    return found


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
    return ", ".join(f"{s:.1%} at {b.replace('_', '.')} %" for b, s in shares.items())


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
