"""The plots of the study's report: curves, intervals, gap closure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common import page
from common.formats import Results, RoundEvent

WIDTH_PX = 920
BOUNDS = ("lower", "upper")


@dataclass(frozen=True)
class Curve:
    """One training as it went.

    Attributes:
        key: "<arm>/<stage>".
        losses: By site, (round, loss) of the replies.
        rounds: As aggregated, with validation loss and refusals.
    """

    key: str
    losses: Mapping[str, Sequence[tuple[int, float]]]
    rounds: Sequence[RoundEvent]


def site_colors(sites: Sequence[str]) -> dict[str, str]:
    """The same colour for a site in every figure."""
    return {site: page.SERIES[n % len(page.SERIES)] for n, site in enumerate(sites)}


def interval_plot(
    results: Results, order: Sequence[str], *, metric: str, label: str
) -> Markup | None:
    """Means with their intervals: one panel over the targets, one a site that has the metric.

    Args:
        results: Of the study.
        order: The sites.
        metric: Which one.
        label: The metric in words, with its unit.

    Returns:
        SVG, or None where no site has the metric.
    """
    arms = list(results.arms)
    sites = [
        site
        for site in order
        if any(site in r.sites and metric in r.sites[site].metrics for r in results.arms.values())
    ]
    if not sites:
        return None
    panels: list[tuple[str, dict[str, tuple[float, float | None, float | None]]]] = []
    over = {a: r.targets[metric] for a, r in results.arms.items() if metric in r.targets}
    if over:
        n = max(t.n_sites for t in over.values())
        title = "Mean of " + page.count(n, "target")
        panels.append((title, {a: (t.mean, t.ci_low, t.ci_high) for a, t in over.items()}))
    for site in sites:
        of_site = {
            a: r.sites[site].metrics[metric]
            for a, r in results.arms.items()
            if site in r.sites and metric in r.sites[site].metrics
        }
        role = next(r.sites[site].role for r in results.arms.values() if site in r.sites)
        panels.append(
            (f"{site} ({role})", {a: (s.mean, s.ci_low, s.ci_high) for a, s in of_site.items()})
        )
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    with page.drawing():
        drawn = page.figure(WIDTH_PX, rows * (26 * len(arms) + 62))
        grid = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, values) in zip(grid.flat, panels, strict=False):
            _interval_panel(axes, title, values, arms, results.main)
        for axes in grid[-1]:
            axes.set_xlabel(label)
    said = "; ".join(
        f"{title}: " + ", ".join(f"{arm} {v[0]:.3f}" for arm, v in values.items())
        for title, values in panels
    )
    alt = f"Mean {label} with 95 % intervals of each arm. {said}."
    return page.svg(drawn, name=f"interval-{metric}", alt=alt)


def _interval_panel(
    axes: Axes,
    title: str,
    values: Mapping[str, tuple[float, float | None, float | None]],
    arms: Sequence[str],
    main: str,
) -> None:
    if main in values:
        axes.axvline(values[main][0], color=page.ACCENT, linewidth=0.9, linestyle=(0, (3, 3)))
    for row, arm in enumerate(arms):
        if arm not in values:
            continue
        mean, low, high = values[arm]
        color = page.ACCENT if arm == main else page.INK
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=color, linewidth=1.6 if arm != main else 2.4)
        axes.plot(
            [mean],
            [row],
            marker="o",
            markersize=7 if arm == main else 5.5,
            color=color,
            markerfacecolor=page.PAPER if arm in BOUNDS else color,
            markeredgewidth=1.4,
        )
    axes.set_title(title)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(arms)), arms)
    for label, arm in zip(axes.get_yticklabels(), arms, strict=False):  # inner panels have none
        label.set_color(page.ACCENT if arm == main else page.INK)
        label.set_fontweight("bold" if arm == main else "normal")
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def closable(results: Results) -> set[str]:
    """Target sites with both bounds and a gap between them."""
    return {
        site
        for arm in results.arms.values()
        for site, result in arm.sites.items()
        if result.gap_closure is not None
    }


def gap_plot(results: Results, colors: Mapping[str, str]) -> Markup | None:
    """Gap closure of each arm at each target, 0 at the lower bound and 100 % at the upper.

    Returns:
        SVG, or None where no target has both bounds.
    """
    bars = {
        arm: {
            site: result.gap_closure
            for site, result in r.sites.items()
            if result.gap_closure is not None
        }
        for arm, r in results.arms.items()
    }
    bars = {arm: of_arm for arm, of_arm in bars.items() if of_arm}
    if not bars:
        return None
    sites = [site for site in colors if site in closable(results)]
    thickness = 0.76 / len(sites)
    with page.drawing():
        drawn = page.figure(WIDTH_PX, len(bars) * (13 * len(sites) + 16) + 56)
        axes = drawn.subplots()
        for row, of_arm in enumerate(bars.values()):
            for n, site in enumerate(sites):
                if site not in of_arm:
                    continue
                value = 100 * of_arm[site]
                y = row - 0.38 + (n + 0.5) * thickness
                axes.barh(y, value, height=thickness * 0.86, color=colors[site])
                axes.annotate(
                    f"{value:.0f} %".replace("-", "−"),
                    (value, y),
                    xytext=(4 if value >= 0 else -4, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if value >= 0 else "right",
                    fontsize=10.5,
                )
        axes.set_yticks(range(len(bars)), list(bars))
        for label, arm in zip(axes.get_yticklabels(), bars, strict=True):
            label.set_color(page.ACCENT if arm == results.main else page.INK)
            label.set_fontweight("bold" if arm == results.main else "normal")
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        closures = [100 * v for of_arm in bars.values() for v in of_arm.values()]
        low, high = min(0.0, *closures), max(100.0, *closures)
        pad = 0.09 * (high - low)
        axes.set_xlim(low - (pad if low < 0 else 0), high + pad)
        axes.axvline(0, color=page.INK, linewidth=1.2)
        axes.axvline(100, color=page.INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlabel("gap closed, % of the way from lower (0) to upper (100), in Dice")
    said = "; ".join(
        f"{arm}: " + ", ".join(f"{site} {100 * v:.0f} %" for site, v in of_arm.items())
        for arm, of_arm in bars.items()
    )
    return page.svg(drawn, name="gap", alt=f"Gap closure by arm and target site. {said}.")


def curve_plot(curves: Sequence[Curve], colors: Mapping[str, str]) -> Markup | None:
    """One small panel a training: loss over rounds by site, and on source validation.

    Returns:
        SVG, or None before the first reply.
    """
    if not curves:
        return None
    columns = min(4, max(2, len(curves)))
    rows = math.ceil(len(curves) / columns)
    with page.drawing():
        drawn = page.figure(WIDTH_PX, rows * 190 + 8)
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        for axes, curve in zip(grid.flat, curves, strict=False):
            _curve_panel(axes, curve, colors)
        for column in range(columns):
            below = [axes for axes in grid[:, column] if axes.get_visible()]
            if below:
                below[-1].set_xlabel("round")
        for of_row in grid:
            of_row[0].set_ylabel("loss")
    return page.svg(drawn, name="curves", alt=_curve_words(curves))


def _curve_panel(axes: Axes, curve: Curve, colors: Mapping[str, str]) -> None:
    longest = max([e.rounds for e in curve.rounds], default=1)
    marked = "o" if longest <= 16 else ""
    for site, points in curve.losses.items():
        axes.plot(
            *zip(*points, strict=True),
            color=colors[site],
            linewidth=1.7,
            marker=marked,
            markersize=3.6 if longest > 1 else 7,
        )
    validation = [(e.round, e.val_loss) for e in curve.rounds if e.val_loss is not None]
    if validation:
        axes.plot(
            *zip(*validation, strict=True),
            color=page.INK,
            linewidth=1.3,
            linestyle=(0, (3, 2)),
            marker=marked,
            markersize=3.2,
            markerfacecolor=page.PAPER,
        )
    refused = sorted({e.round for e in curve.rounds if e.refused})
    if refused:
        axes.plot(
            refused,
            [0.045] * len(refused),
            color=page.WARN,
            marker="x",
            markersize=6,
            markeredgewidth=1.8,
            linestyle="none",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.set_title(page.title(curve.key))
    axes.set_xlim(0.7, longest + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(y=0.14)


def _curve_words(curves: Sequence[Curve]) -> str:
    said = []
    for curve in curves:
        ends = [
            f"{site} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
            for site, points in curve.losses.items()
            if points
        ]
        said.append(f"{curve.key}: " + ", ".join(ends))
    return "Loss per round and site of each training. " + "; ".join(said) + "."
