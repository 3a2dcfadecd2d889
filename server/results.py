"""results.json: what a finished study found, from what the sites' evaluations said.

Only means, variances, p values and counts arrive here; no image's score does.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from common import statistics
from common.formats import (
    ArmResult,
    Bytes,
    Comparison,
    PairedResult,
    Results,
    Role,
    SelectionResults,
    SiteResult,
    Summary,
    TargetSummary,
    Traffic,
    Unit,
)

Flat = Mapping[str, float]
"""A site's evaluate metrics: "<arm>.<metric>.<stat>" and "<arm>~<other>.<metric>.<stat>"."""

Stats = dict[str, dict[str, dict[str, float]]]
"""The same, as {arm or pair: {metric: {stat: value}}}."""

REFERENCE_METRIC = "dice"
"""Gap closure is told in this one."""

JUDGED_BY = ("dice", "recall_at_1")
"""A site whose arms have one of these was judged by something known: masks, or its videos."""


def build_results(
    *,
    study: str,
    digest: str,
    seed: int,
    synthetic: bool,
    machine: Mapping[str, str | int | float | bool | None],
    main: str,
    arms: Sequence[str],
    roles: Mapping[str, Role],
    units: Mapping[str, Unit],
    evaluations: Mapping[str, Flat],
    traffic: Mapping[str, Mapping[str, int]],
    notes: Sequence[str] = (),
    lower: str = "lower",
    upper: str = "upper",
    selection: SelectionResults | None = None,
) -> dict[str, Any]:
    """Put the sites' evaluations together (docs/formats.md, "results.json").

    Gap closure is (ours - lower) / (upper - lower) in Dice, per target site with a reference.
    Across sites only targets with a reference count: macro mean (interval from the sites'
    bootstrap variances), Stouffer over the sites' signed tests weighted by the square root of
    their clusters, then Holm over the arms compared, within each metric.

    Args:
        study: Its name.
        digest: SHA-256 of the canonical study.
        seed: Of the study.
        synthetic: Whether any site's images are the phantom's.
        machine: Facts for the record (cpu, memory, library versions).
        main: The arm compared against each other; empty where none segments.
        arms: In the study's order.
        roles: By site, in the study's order.
        units: By site: what its statistics go by.
        evaluations: By site, as its evaluate reply said.
        traffic: By site, {"down": bytes, "up": bytes}.
        notes: The study's own; what the numbers call for is appended.
        lower: The arm that gap closure counts from.
        upper: The arm it counts to.
        selection: The second half, of a study that selects.

    Returns:
        A dict that `common.formats.Results` accepts.
    """
    stats = {site: _unflatten(evaluations[site]) for site in roles if site in evaluations}
    remarks = list(notes)
    gaps = _gaps(stats, roles, lower, upper, remarks)
    arm_results: dict[str, ArmResult] = {}
    for arm in arms:
        sites: dict[str, SiteResult] = {}
        for site, of_site in stats.items():
            if arm not in of_site:
                continue
            summaries = {metric: _summary(s) for metric, s in of_site[arm].items()}
            reference = any(metric in summaries for metric in JUDGED_BY)
            closure = None
            if REFERENCE_METRIC in summaries and site in gaps and arm not in (lower, upper):
                bottom, gap = gaps[site]
                closure = (summaries[REFERENCE_METRIC].mean - bottom) / gap
            sites[site] = SiteResult(
                role=roles[site],
                unit=units[site],
                reference=reference,
                gap_closure=closure,
                **cast(dict[str, Any], summaries),
            )
        arm_results[arm] = ArmResult(sites=sites, targets=_over_targets(sites))
    remarks += _remarks(stats, units, arm_results)
    total = sum(t["down"] + t["up"] for t in traffic.values())
    results = Results(
        study=study,
        digest=digest,
        seed=seed,
        synthetic=synthetic,
        machine=dict(machine),
        main=main,
        arms=arm_results,
        comparisons=_comparisons(stats, roles, main, arms),
        selection=selection,
        traffic=Traffic(
            sites={site: Bytes(down=t["down"], up=t["up"]) for site, t in traffic.items()},
            total_bytes=total,
        ),
        notes=remarks,
    )
    return results.model_dump(mode="json")


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write results.json in one step: a reader sees the whole file or none.

    Raises:
        ValidationError: If the results are not of the format.
    """
    Results.model_validate(results)
    partial = path.with_suffix(".partial")
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def _unflatten(flat: Flat) -> Stats:
    stats: Stats = {}
    for name, value in flat.items():
        arm, rest = name.split(".", 1)
        metric, stat = rest.rsplit(".", 1)
        stats.setdefault(arm, {}).setdefault(metric, {})[stat] = value
    return stats


def _summary(of: Mapping[str, float]) -> Summary:
    return Summary(
        mean=of["mean"],
        ci_low=of.get("ci_low"),
        ci_high=of.get("ci_high"),
        variance=of.get("variance"),
        n_images=int(of["n_images"]),
        n_patients=int(of["n_patients"]),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gaps(
    stats: Mapping[str, Stats],
    roles: Mapping[str, Role],
    lower: str,
    upper: str,
    remarks: list[str],
) -> dict[str, tuple[float, float]]:
    """(lower, upper - lower) of each target site that has a gap to close."""
    gaps = {}
    for site, of_site in stats.items():
        means = [
            of_site[arm][REFERENCE_METRIC]["mean"]
            for arm in (lower, upper)
            if REFERENCE_METRIC in of_site.get(arm, {})
        ]
        if roles[site] != "target" or len(means) < 2:
            continue
        if means[1] > means[0]:
            gaps[site] = (means[0], means[1] - means[0])
        else:
            remarks.append(
                f"{site}: {upper} ({means[1]:.3f}) is not above {lower} ({means[0]:.3f}), so there "
                "is no gap to close."
            )
    return gaps


def _over_targets(sites: Mapping[str, SiteResult]) -> dict[str, TargetSummary]:
    targets = [s.metrics for s in sites.values() if s.role == "target" and s.reference]
    metrics = dict.fromkeys(name for of_site in targets for name in of_site)
    found = {}
    for metric in metrics:
        summaries = [of_site[metric] for of_site in targets if metric in of_site]
        macro = statistics.macro_mean(
            [s.mean for s in summaries],
            [math.nan if s.variance is None else s.variance for s in summaries],
        )
        found[metric] = TargetSummary(
            mean=macro.mean,
            ci_low=_finite(macro.ci_low),
            ci_high=_finite(macro.ci_high),
            n_sites=macro.n_sites,
        )
    return found


def _comparisons(
    stats: Mapping[str, Stats], roles: Mapping[str, Role], main: str, arms: Sequence[str]
) -> list[Comparison]:
    pairs: dict[tuple[str, str], dict[str, PairedResult]] = {}
    for site, of_site in stats.items():
        for other in arms:
            for metric, s in of_site.get(f"{main}~{other}", {}).items():
                pairs.setdefault((metric, other), {})[site] = PairedResult(
                    difference=s["difference"], p=s["p"], z=s["z"], n=int(s["n"])
                )
    found = []
    for metric in dict.fromkeys(metric for metric, _ in pairs):
        family = []
        for other in arms:
            sites = pairs.get((metric, other))
            if sites is None:
                continue
            targets = [paired for site, paired in sites.items() if roles[site] == "target"]
            combined = (
                statistics.stouffer([t.z for t in targets], [math.sqrt(t.n) for t in targets])
                if targets
                else None
            )
            family.append((other, sites, targets, combined))
        adjusted = iter(statistics.holm([c.p for *_, c in family if c is not None]))
        found += [
            Comparison(
                arm=main,
                other=other,
                metric=metric,
                sites=sites,
                difference=sum(t.difference for t in targets) / len(targets) if targets else None,
                p=None if combined is None else combined.p,
                p_holm=None if combined is None else next(adjusted),
            )
            for other, sites, targets, combined in family
        ]
    return found


def _remarks(
    stats: Mapping[str, Stats], units: Mapping[str, Unit], arms: Mapping[str, ArmResult]
) -> list[str]:
    """What a reader must know of each site's numbers, and of the means over targets."""
    remarks = []
    most: dict[str, int] = {}
    for arm in arms.values():
        for metric, target in arm.targets.items():
            most[metric] = max(most.get(metric, 0), target.n_sites)
    remarks += [
        f"{metric}: the mean of targets is over {n} of {max(most.values())} sites; the others have "
        "no such number."
        for metric, n in most.items()
        if n < max(most.values())
    ]
    for site in stats:
        of_site = [arm.sites[site] for arm in arms.values() if site in arm.sites]
        if not of_site:
            continue
        if not any(s.reference for s in of_site):
            remarks.append(
                f"{site}: no reference. Branch agreement, mean confidence and predicted area are "
                "reported; none of them is accuracy, and there is no gap closure."
            )
        units_tested = max(m.n_patients for s in of_site for m in s.metrics.values())
        noun = units[site]
        if units_tested < 2:
            remarks.append(f"{site}: one {noun} in the test set, so there is no interval.")
        elif units_tested < 6 and any(s.reference for s in of_site):
            remarks.append(
                f"{site}: {units_tested} {noun}s in the test set; the smallest p value that they "
                f"can give is {2.0 ** (1 - units_tested):.3g}."
            )
        if any("recall_at_1" in s.metrics and "probe_auroc" not in s.metrics for s in of_site):
            remarks.append(
                f"{site}: no linear probe: its test frames carry one class, or a class that only "
                "one patient has."
            )
        if noun != "patient":
            why = "duplicate groups stand in" if noun == "group" else "every image counts alone"
            remarks.append(f"{site}: patients are not known, {why}; intervals may be too narrow.")
    return remarks
