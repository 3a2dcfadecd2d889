"""The plots of the report's second half: curves over budgets, densities, the memorisation check."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from common import page
from common.formats import Interval, ReconstructionResult, SelectionResults
from server.report_arms import METRICS, is_main
from server.report_figures import WIDTH_PX
from server.report_selection import Cells
from server.report_views import Log

EXPECTED = 0.05
"""Share of drawn images that lie nearer than the 5th percentile if nothing was memorised."""

Curve = dict[float, Interval]
"""Budget to number."""


def selection_plot(cells: Cells, metric: str) -> Markup | None:
    """A metric, averaged over the architectures, over the budgets: the leading arm against each.

    One panel for each other arm that runs at every budget, the rest pale behind; with a single
    budget one panel of dots instead.

    Returns:
        SVG, or None where no arm selects.
    """
    curves = _curves(cells, metric)
    main = cells.results.main
    lead = curves.pop(main, None)
    if not lead:
        return None
    full = curves.pop("full", {}).get(1.0)
    start = curves.pop("source_only", {}).get(0.0)
    if len(lead) == 1 and all(len(curve) <= 1 for curve in curves.values()):
        return _dots(cells, metric, lead, curves, full, start)
    return _panels(cells, metric, lead, curves, full, start)


def _curves(cells: Cells, metric: str) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for arm in cells.arms:
        if not is_main(arm):
            continue
        points = {b: cells.average(arm, b, metric) for b in cells.budgets(arm)}
        curve = {budget: value for budget, value in points.items() if value}
        if curve:
            found[arm] = curve
    return found


def _panels(
    cells: Cells,
    metric: str,
    lead: Curve,
    others: Mapping[str, Curve],
    full: Interval | None,
    start: Interval | None,
) -> Markup:
    main = cells.results.main
    shown = list(others) or [main]
    columns = min(4, len(shown)) if len(shown) != 5 else 3
    rows = math.ceil(len(shown) / columns)
    with page.drawing():
        drawn = page.figure(WIDTH_PX, rows * 188 + 26)
        grid = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, arm in zip(grid.flat, shown, strict=False):
            for other, curve in others.items():
                if other != arm:
                    _line(axes, curve, None, page.RULE, width=1.0)
            if full:
                axes.axhline(full.mean, color=page.INK, linewidth=1.0, linestyle=(0, (4, 3)))
            _band(axes, lead)
            if arm in others:
                _whiskers(axes, others[arm], page.INK)
                _line(axes, others[arm], start, page.INK, width=1.5, marker="o")
            _line(axes, lead, start, page.ACCENT, width=2.4, marker="o")
            if start:
                axes.plot([0], [start.mean], "o", color=page.INK, markerfacecolor=page.PAPER,
                          markersize=5.5, markeredgewidth=1.3, zorder=5)  # fmt: skip
            axes.set_title(arm)
            axes.grid(axis="x", visible=False)
        axes = grid[0, 0]
        budgets = sorted({0.0} | {b for curve in (lead, *others.values()) for b in curve})
        axes.set_xticks([100 * b for b in budgets])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(y=0.08)
        for axes in grid.flat:
            axes.tick_params(labelbottom=True)
        word = METRICS[metric] if metric == "auroc" else METRICS[metric].lower()
        drawn.supxlabel("annotated, % of the pool", fontsize=11.5, color=page.MUTED)
        drawn.supylabel(word, fontsize=11.5, color=page.MUTED)
    return page.svg(drawn, name=f"selection-{metric}", alt=_curve_words(metric, main, lead, others))


def _line(
    axes: Axes, curve: Curve, start: Interval | None, color: str, *, width: float, marker: str = ""
) -> None:
    points = {**({0.0: start} if start else {}), **curve}
    xs = [100 * budget for budget in sorted(points)]
    ys = [points[budget].mean for budget in sorted(points)]
    axes.plot(xs, ys, color=color, linewidth=width, marker=marker, markersize=4.2, zorder=3)


def _whiskers(axes: Axes, curve: Curve, color: str) -> None:
    for budget, value in curve.items():
        if value.ci_low is not None and value.ci_high is not None:
            axes.plot([100 * budget] * 2, [value.ci_low, value.ci_high], color=color,
                      linewidth=1.0, zorder=2)  # fmt: skip


def _band(axes: Axes, curve: Curve) -> None:
    ends = [
        (100 * budget, value.ci_low, value.ci_high)
        for budget, value in sorted(curve.items())
        if value.ci_low is not None and value.ci_high is not None
    ]
    if ends:
        xs, lows, highs = zip(*ends, strict=True)
        axes.fill_between(xs, lows, highs, color=page.ACCENT, alpha=0.16, linewidth=0)


def _dots(
    cells: Cells,
    metric: str,
    lead: Curve,
    others: Mapping[str, Curve],
    full: Interval | None,
    start: Interval | None,
) -> Markup:
    main = cells.results.main
    budget = next(iter(lead))
    rows: dict[str, Interval] = {main: lead[budget]}
    rows |= {arm: curve[budget] for arm, curve in others.items() if budget in curve}
    bounds = {"source_only": start, "full": full}
    rows |= {arm: value for arm, value in bounds.items() if value}
    with page.drawing():
        drawn = page.figure(WIDTH_PX, 28 * len(rows) + 62)
        axes = drawn.subplots()
        for place, (arm, value) in enumerate(rows.items()):
            color = page.ACCENT if arm == main else page.INK
            if value.ci_low is not None and value.ci_high is not None:
                axes.plot([value.ci_low, value.ci_high], [place] * 2, color=color,
                          linewidth=2.4 if arm == main else 1.6)  # fmt: skip
            axes.plot([value.mean], [place], "o", color=color, markeredgewidth=1.4,
                      markersize=7 if arm == main else 5.5,
                      markerfacecolor=page.PAPER if arm in bounds else color)  # fmt: skip
        axes.axvline(lead[budget].mean, color=page.ACCENT, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(rows)), list(rows))
        for label, arm in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(page.ACCENT if arm == main else page.INK)
            label.set_fontweight("bold" if arm == main else "normal")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        models = page.count(len(cells.architectures), "architecture")
        axes.set_xlabel(f"{METRICS[metric]}, mean of {models}")
    said = ", ".join(f"{arm} {value.mean:.3f}" for arm, value in rows.items())
    alt = f"{METRICS[metric]} with 95 % intervals at a budget of {100 * budget:g} %: {said}."
    return page.svg(drawn, name=f"selection-{metric}", alt=alt)


def _curve_words(metric: str, main: str, lead: Curve, others: Mapping[str, Curve]) -> str:
    said = "; ".join(
        f"{arm}: " + ", ".join(f"{v.mean:.3f} at {100 * b:g} %" for b, v in sorted(curve.items()))
        for arm, curve in {main: lead, **others}.items()
    )
    return f"{METRICS[metric]} over the share of the pool that was annotated. {said}."


def density_plot(
    found: Mapping[str, ReconstructionResult], colors: Mapping[str, str]
) -> Markup | None:
    """P2 Fig. 1: densities of the similarity to the source, before and after reconstruction.

    Returns:
        SVG, or None where no target has been redrawn.
    """
    edges = np.linspace(-1.0, 1.0, 65)
    pairs = {site: result.similarity for site, result in found.items()}
    at = _densities(pairs, edges, floor=float(edges[1] - edges[0]))
    if at is None:
        return None
    grid, of = at
    mass = np.sum(list(of.values()), axis=0)
    inside = np.flatnonzero(mass > 0.004 * mass.max())
    limits = (float(grid[inside[0]]), min(1.0, float(grid[inside[-1]])))
    return _two_panels(
        found, colors, grid, of, limits, name="similarity",
        label="cosine similarity to the source's mean",
        alt="Densities of the similarity to the source",
    )  # fmt: skip


def grey_plot(
    found: Mapping[str, ReconstructionResult], colors: Mapping[str, str]
) -> Markup | None:
    """Densities of the grey levels, before and after reconstruction, in the same manner."""
    pairs = {site: result.grey for site, result in found.items()}
    at = _densities(pairs, np.arange(257) - 0.5, floor=3.0)
    if at is None:
        return None
    grid, of = at
    return _two_panels(
        found, colors, grid, of, (0.0, 255.0), name="grey", label="grey level",
        alt="Densities of the grey levels", above=12.0,
    )  # fmt: skip


Densities = dict[tuple[str, str], NDArray[np.float64]]
"""(site, "before" or "after") to density on a grid."""


def _densities(
    pairs: Mapping[str, Mapping[str, Sequence[int]]], edges: NDArray[np.floating], *, floor: float
) -> tuple[NDArray[np.float64], Densities] | None:
    """Gaussian kernels on histograms: Silverman's width, at least `floor`, mirrored at the ends."""
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = float(edges[0]), float(edges[-1])
    grid = np.linspace(low, high, 641)
    of: Densities = {}
    for site, when in pairs.items():
        for name, counts in when.items():
            weights = np.asarray(counts, dtype=np.float64)
            if not weights.sum() or len(weights) != len(centres):
                continue
            n, weights = weights.sum(), weights / weights.sum()
            mean = float(weights @ centres)
            spread = math.sqrt(float(weights @ (centres - mean) ** 2))
            width = max(floor, 1.06 * spread * float(n) ** -0.2)
            there = np.flatnonzero(weights)
            mirrored = [centres, 2 * low - centres, 2 * high - centres]
            of[site, name] = np.sum(
                [
                    np.exp(-0.5 * ((grid[:, None] - at[there]) / width) ** 2) @ weights[there]
                    for at in mirrored
                ],
                axis=0,
            ) / (width * math.sqrt(2 * math.pi))
    return (grid, of) if any(name == "after" for _, name in of) else None


def _two_panels(
    found: Mapping[str, ReconstructionResult],
    colors: Mapping[str, str],
    grid: NDArray[np.float64],
    of: Densities,
    limits: tuple[float, float],
    *,
    name: str,
    label: str,
    alt: str,
    above: float = -math.inf,
) -> Markup:
    """Before on the left, after on the right; the source is the filled area of both."""
    with page.drawing():
        drawn = page.figure(WIDTH_PX, 252)
        panels = drawn.subplots(1, 2, sharex=True, sharey=True)
        for axes, when, title in zip(
            panels, ("before", "after"), ("(a) images", "(b) reconstructions"), strict=True
        ):
            for site, result in found.items():
                if result.role == "source" and (site, "before") in of:
                    density = of[site, "before"]
                    axes.fill_between(grid, density, color=colors[site], alpha=0.18, linewidth=0)
                    axes.plot(grid, density, color=colors[site], linewidth=1.2)
                elif (site, when) in of:
                    axes.plot(grid, of[site, when], color=colors[site], linewidth=2.2)
            axes.set_title(title)
            axes.set_xlabel(label)
            axes.grid(axis="y", visible=False)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        panels[0].set_xlim(*limits)
        tallest = max(float(density[grid > above].max()) for density in of.values())
        panels[0].set_ylim(0, 1.08 * tallest)
        panels[0].set_ylabel("density")
    said = "; ".join(
        f"{site}: mode " + ", ".join(
            f"{grid[int(of[site, when].argmax())]:.3g} {when}"
            for when in ("before", "after") if (site, when) in of
        )
        for site in found
    )  # fmt: skip
    return page.svg(drawn, name=name, alt=f"{alt}, before and after reconstruction. {said}.")


def memorisation_plot(found: Mapping[str, float]) -> Markup | None:
    """Shares of drawn images that lie too near to a training image, and the threshold.

    Returns:
        SVG, or None without a diffusion model.
    """
    shares = {
        words: found[name]
        for name, words in (("features", "in features"), ("correlation", "in correlation"))
        if name in found
    }
    if not shares:
        return None
    threshold = found["threshold"]
    with page.drawing():
        drawn = page.figure(WIDTH_PX, 128)
        axes = drawn.subplots()
        for place, value in enumerate(shares.values()):
            color = page.ACCENT if value < threshold else page.WARN
            axes.barh(place, 100 * value, height=0.56, color=color)
            axes.annotate(f"{100 * value:.1f} %", (100 * value, place), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=10.5)  # fmt: skip
        for at, style, words in (
            (EXPECTED, (0, (2, 3)), "nothing memorised"), (threshold, "-", "release below"),
        ):  # fmt: skip
            color = page.WARN if at == threshold else page.MUTED
            axes.axvline(100 * at, color=color, linewidth=1.5, linestyle=style)
            axes.annotate(words, (100 * at, -0.62), xytext=(4, 0), textcoords="offset points",
                          color=color, fontsize=10.5, va="center")  # fmt: skip
        axes.set_yticks(range(len(shares)), list(shares))
        axes.set_ylim(len(shares) - 0.4, -0.95)
        axes.set_xlim(0, 100 * max(1.6 * threshold, 1.25 * max(shares.values())))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            "drawn images nearer to a training image than the 5th percentile of held-out images, %"
        )
    said = ", ".join(f"{words} {value:.1%}" for words, value in shares.items())
    alt = f"Memorisation check: {said}; released below {threshold:.0%}."
    return page.svg(drawn, name="memorisation", alt=alt)


def classify_plot(log: Log, results: SelectionResults | None) -> Markup | None:
    """Loss over the rounds of all classifiers on selected images, one panel an architecture.

    Returns:
        SVG, or None where there are none, or only one round of each.
    """
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for (key, round_), event in log.rounds.items():
        if event.stage == "classify" and event.loss is not None:
            architecture = key.split("/")[2]
            lines.setdefault(architecture, {}).setdefault(key, []).append((round_, event.loss))
    longest = max((len(points) for of in lines.values() for points in of.values()), default=0)
    if longest < 2:
        return None
    main = results.main if results else ""
    columns = min(4, max(2, len(lines)))
    rows = math.ceil(len(lines) / columns)
    with page.drawing():
        drawn = page.figure(WIDTH_PX, rows * 190 + 8)
        grid = drawn.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(lines) :]:
            axes.set_visible(False)
        for axes, (architecture, of) in zip(grid.flat, lines.items(), strict=False):
            for key, points in of.items():
                lead = key.startswith(f"{main}/")
                axes.plot(*zip(*sorted(points), strict=True), linewidth=2.0 if lead else 0.9,
                          color=page.ACCENT if lead else page.MUTED, alpha=1.0 if lead else 0.45,
                          zorder=3 if lead else 2)  # fmt: skip
            axes.set_title(architecture)
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        for of_row in grid:
            of_row[0].set_ylabel("loss")
    alt = "Loss per round of the classifiers on selected images: " + "; ".join(
        f"{architecture}, {len(of)} of them" for architecture, of in lines.items()
    )
    return page.svg(drawn, name="classify", alt=alt + ".")
