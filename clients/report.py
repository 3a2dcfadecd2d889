"""report.html of a site: overlays, maps and every test image's scores. It stays at the site.

The server's report holds no pixel; this one is full of them. The caller hands over arrays, this
module opens no image.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from clients.evaluation import OVERLAP, WITHOUT_REFERENCE
from clients.pictures import (
    CLASS_COLORS,
    CONFIDENCE_MAP,
    REFERENCE_COLOR,
    WEIGHT_MAP,
    Case,
    color_map,
    embed,
    overlay,
    ramp,
)
from common import page
from common.formats import EpochLine, Role, Unit

TEMPLATES = Path(__file__).parent / "templates"
"""Jinja; named .md because Flower bundles neither .j2 nor .html."""

Table = Sequence[Mapping[str, str | float]]
"""As `clients.evaluation.tabulate` gives it."""

ROWS_SHOWN = 400


def choose(table: Table, main: str, count: int = 12) -> list[str]:
    """Which images to show: the worst of the worst patients, then evenly up to the best.

    Worst is the lowest Dice of the main arm; without a reference the lowest agreement, else the
    lowest confidence. Frames of one patient fail alike, so half of the places go to the worst
    image of as many patients.

    Args:
        table: The site's per-image table.
        main: The main arm.
        count: How many at most.

    Returns:
        Ids, worst first.
    """
    ranked = rank(table, main)
    first = {row["cluster"]: row["image"] for row in reversed(ranked)}  # the worst stays
    order = [row["image"] for row in ranked]
    worst = [image for image in order if image in first.values()][: math.ceil(count / 2)]
    rest = [image for image in order if image not in worst]
    spare = min(count - len(worst), len(rest))
    steps = {len(rest) - 1 - (i * (len(rest) - 1)) // max(1, spare - 1) for i in range(spare)}
    return sorted(worst + [rest[i] for i in steps], key=order.index)


def rank(table: Table, main: str) -> list[dict[str, Any]]:
    """One row an image, worst first: the main arm's numbers and every arm's score.

    Returns:
        Rows with image, cluster, score, the main arm's numbers (mean over classes; None where
        undefined) and `arms`, the score by arm.
    """
    cells: dict[str, dict[str, dict[str, list[float]]]] = {}
    clusters: dict[str, Any] = {}
    numbers = (*OVERLAP, *WITHOUT_REFERENCE, "area_reference")
    for row in table:
        image, arm = str(row["image"]), str(row["arm"])
        clusters[image] = row["cluster"]
        of_arm = cells.setdefault(image, {}).setdefault(arm, {})
        for name in numbers:
            if row[name] != "":
                of_arm.setdefault(name, []).append(float(row[name]))
    ranked = []
    for image, arms in cells.items():
        means = {
            arm: {name: sum(values) / len(values) for name, values in of_arm.items()}
            for arm, of_arm in arms.items()
        }
        by = next((n for n in ("dice", "agreement") if n in means[main]), "confidence")
        ranked.append(
            {
                "image": image,
                "cluster": clusters[image],
                "by": by,
                "score": means[main][by],
                "arms": {arm: of_arm.get(by) for arm, of_arm in means.items()},
                **{name: means[main].get(name) for name in numbers},
            }
        )
    return sorted(ranked, key=lambda row: (row["score"], row["image"]))


def render(
    *,
    site: str,
    role: Role,
    unit: Unit,
    study: str,
    digest: str,
    synthetic: bool,
    main: str,
    metrics: Mapping[str, float],
    table: Table,
    cases: Sequence[Case],
    epochs: Sequence[EpochLine] = (),
    classes: Sequence[str] = (),
    threshold: float = 0.5,
) -> str:
    """The site's report as HTML; the same input gives the same bytes.

    Args:
        site: Its name.
        role: In the study.
        unit: What its statistics go by.
        study: The study's name.
        digest: Its SHA-256.
        synthetic: Whether the images are the phantom's.
        main: The main arm.
        metrics: The site's flat metrics, as they were sent.
        table: The per-image table.
        cases: What to show, worst first (see `choose`).
        epochs: Local epochs of the site's trainings.
        classes: Names of the C channels, if several.
        threshold: Foreground from this probability up.
    """
    ranked = rank(table, main)
    scores = {row["image"]: row for row in ranked}
    arms = list(dict.fromkeys(str(row["arm"]) for row in table))
    referenced = f"{main}.dice.mean" in metrics
    named = OVERLAP if referenced else WITHOUT_REFERENCE
    template = page.environment(TEMPLATES).get_template("report.html.md")
    return template.render(
        site=site,
        role=role,
        unit=unit,
        study=study,
        digest=digest,
        synthetic=synthetic,
        main=main,
        arms=arms,
        summary={arm: {m: _stats(metrics, arm, m) for m in named} for arm in arms},
        referenced=referenced,
        ranked=ranked[:ROWS_SHOWN],
        total=len(ranked),
        clusters=len({row["cluster"] for row in ranked}),
        by=ranked[0]["by"] if ranked else "dice",
        symbols=[embed(case, f"case-{n}") for n, case in enumerate(cases)],
        size=cases[0].image_HW.shape if cases else (0, 0),
        gallery=[_gallery(case, n, scores[case.name], threshold) for n, case in enumerate(cases)],
        fusion=[
            _fusion(case, n, main, threshold) for n, case in enumerate(cases) if case.weights_CHW
        ],
        members=list(_short(cases[0].members_CHW).values()) if cases else [],
        classes=list(zip(classes, CLASS_COLORS, strict=False)),
        colors={"reference": REFERENCE_COLOR, "prediction": CLASS_COLORS[0]},
        ramps={"confidence": ramp(CONFIDENCE_MAP), "weight": ramp(WEIGHT_MAP)},
        curves=_curves(epochs),
    )


def write_report(folder: Path, **content: Any) -> Path:
    """Write `report.html` into the site's own folder; see `render` for the content.

    Returns:
        Its path.
    """
    path = folder / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text(render(**content), encoding="utf-8")
    os.replace(partial, path)
    return path


def _stats(metrics: Mapping[str, float], arm: str, metric: str) -> dict[str, float | None] | None:
    if f"{arm}.{metric}.mean" not in metrics:
        return None
    return {
        stat: metrics.get(f"{arm}.{metric}.{stat}")
        for stat in ("mean", "ci_low", "ci_high", "n_images")
    }


def _gallery(case: Case, n: int, score: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """P1 Fig. 5 for one image: the image, the reference, each arm's outline."""
    key = f"case-{n}"
    panels = [{"arm": "", "label": "image", "svg": overlay(case, key, alt=f"{case.name}: image")}]
    if case.reference_CHW is not None:
        alt = f"{case.name}: outline of the reference"
        panels.append(
            {"arm": "", "label": "reference", "svg": overlay(case, key, alt=alt, reference=True)}
        )
    for arm, fused_CHW in case.fused_CHW.items():
        value = score["arms"].get(arm)
        said = "" if value is None else f", {score['by']} {value:.3f}"
        panels.append(
            {
                "arm": arm,
                "label": arm,
                "value": value,
                "svg": overlay(
                    case,
                    key,
                    alt=f"{case.name}: outline of {arm}{said}",
                    mask_CHW=fused_CHW >= threshold,
                    reference=True,
                ),
            }
        )
    return {"case": case, "score": score, "panels": panels}


def _fusion(case: Case, n: int, main: str, threshold: float) -> dict[str, Any]:
    """P1 Fig. 6 for one image: each branch's outline and confidence, the weight, the result."""
    key = f"case-{n}"
    panels: list[tuple[str, Markup]] = []
    short = _short(case.members_CHW)
    for member, p_CHW in case.members_CHW.items():
        alt = f"{case.name}: outline of branch {member}"
        mask_CHW = p_CHW >= threshold
        panels.append(
            (short[member], overlay(case, key, alt=alt, mask_CHW=mask_CHW, reference=True))
        )
        alt = f"{case.name}: confidence of branch {member}"
        panels.append(
            ("confidence", color_map(case.confidence_CHW[member], name=CONFIDENCE_MAP, alt=alt))
        )
    shown = list(case.weights_CHW)[:1] if len(case.weights_CHW) == 2 else list(case.weights_CHW)
    for member in shown:
        alt = f"{case.name}: fusion weight of branch {member}"
        label = f"weight of {short[member]}"
        panels.append((label, color_map(case.weights_CHW[member], name=WEIGHT_MAP, alt=alt)))
    alt = f"{case.name}: outline of {main}"
    mask_CHW = case.fused_CHW[main] >= threshold
    panels.append((main, overlay(case, key, alt=alt, mask_CHW=mask_CHW, reference=True)))
    return {"case": case, "panels": panels}


def _short(members: Mapping[str, Any]) -> dict[str, str]:
    """Branches by their arm's name alone ("mim" of "mim/finetune_mim") where that tells them."""
    short = {member: member.split("/")[0] for member in members}
    return short if len(set(short.values())) == len(short) else {m: m for m in members}


def _curves(epochs: Sequence[EpochLine]) -> Markup | None:
    """Mean loss of every local epoch, one panel a training; an epoch repeated counts once."""
    last = {(e.training, e.round, e.epoch): e for e in epochs}
    trainings: dict[str, list[EpochLine]] = {}
    for line in last.values():
        trainings.setdefault(line.training, []).append(line)
    if not trainings:
        return None
    columns = min(4, max(2, len(trainings)))
    rows = math.ceil(len(trainings) / columns)
    said = []
    with page.drawing():
        drawn = page.figure(920, rows * 180 + 8)
        grid = drawn.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(trainings) :]:
            axes.set_visible(False)
        for axes, (key, lines) in zip(grid.flat, trainings.items(), strict=False):
            lines.sort(key=lambda e: (e.round, e.epoch))
            losses = [e.loss for e in lines]
            steps = range(1, len(lines) + 1)
            starts = [x for x, e in zip(steps, lines, strict=True) if e.epoch == 1 and x > 1]
            for x in starts:
                axes.axvline(x - 0.5, color=page.RULE, linewidth=0.8)
            marked = "o" if len(lines) <= 16 else ""
            axes.plot(steps, losses, color=page.ACCENT, linewidth=1.7, marker=marked, markersize=4)
            axes.set_title(page.title(key))
            axes.set_xlabel("local epoch")
            axes.grid(axis="x", visible=False)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.margins(y=0.14)
            said.append(f"{key} from {losses[0]:.3g} to {losses[-1]:.3g}")
        for of_row in grid:
            of_row[0].set_ylabel("loss")
    alt = "Mean loss of each local epoch. " + "; ".join(said) + "."
    return page.svg(drawn, name="epochs", alt=alt)
