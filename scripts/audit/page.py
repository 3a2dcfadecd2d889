"""The page of `sonofed audit show --html`: one file, no network, no script."""

import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common import page
from common.ledger_format import Line
from common.wire.gate import GATE_ERRORS
from scripts.audit.summary import Row, Summary, checked

TEMPLATES = Path(__file__).parent / "templates"
LINES_SHOWN = 2000
"""Of each kind; earlier ones are in the ledger."""


def write_page(found: Summary, path: Path) -> None:
    """Write the page in one move.

    Args:
        found: The ledger, summed up.
        path: Where it goes.
    """
    template = page.environment(TEMPLATES).get_template("audit.html.md")
    text = template.render(
        found=found,
        rows=[_row(row) for row in found.rows.values()],
        replies=[_line(line) for line in found.replies[-LINES_SHOWN:]],
        came=[_line(line) for line in found.came[-LINES_SHOWN:]],
        not_taken=[_line(line) for line in found.not_taken],
        most=LINES_SHOWN,
        refused=[_refused(line) for line in found.refused],
        checks=[{"line": line.sequence, "words": checked(line)} for line in found.checks],
        days=figure_of_days(found) if len(found.days) > 1 else "",
        stages=figure_of_stages(found) if found.rows else "",
    )
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def figure_of_stages(found: Summary) -> Markup:
    """Bytes by message, in and out."""
    rows = [row for row in found.rows.values() if row.left_bytes or row.came_bytes]
    names = [f"{row.message} {row.what}".strip() for row in rows]
    with page.drawing():
        drawn = page.figure(1000, 60 + 30 * max(1, len(rows)))
        axes = drawn.subplots()
        places = range(len(rows))
        axes.barh(
            [p - 0.2 for p in places], [row.left_bytes / 1e6 for row in rows], 0.38,
            color=page.ACCENT, label="left",
        )  # fmt: skip
        axes.barh(
            [p + 0.2 for p in places], [row.came_bytes / 1e6 for row in rows], 0.38,
            color=page.MUTED, label="came in",
        )  # fmt: skip
        axes.set_yticks(list(places), names, parse_math=False)
        axes.invert_yaxis()
        axes.set_xlabel("MB")
        axes.legend(frameon=False)
        return page.svg(drawn, name="stages", alt="Megabytes by kind of message, in and out.")


def figure_of_days(found: Summary) -> Markup:
    """Bytes that left, by day."""
    with page.drawing():
        drawn = page.figure(1000, 200)
        axes = drawn.subplots()
        places = range(len(found.days))
        axes.bar(places, [size / 1e6 for size in found.days.values()], 0.6, color=page.ACCENT)
        axes.set_xticks(list(places), list(found.days), parse_math=False)
        axes.set_ylabel("MB that left")
        return page.svg(drawn, name="days", alt="Megabytes that left the site, by day (UTC).")


def _row(row: Row) -> dict[str, Any]:
    return {**vars(row), "metrics": list(row.metrics), "span": row.span}


def _line(line: Line) -> dict[str, Any]:
    return {**line.event, "line": line.sequence, "time": line.time[:19]}


def _refused(line: Line) -> dict[str, Any]:
    return {**_line(line), "told": GATE_ERRORS.get(line.event["code"], "")}
