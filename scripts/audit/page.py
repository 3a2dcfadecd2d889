"""The page of `sonofed audit show --html`: one file, no network, no script."""

import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from common import page
from common.wire.gate import GATE_ERRORS
from scripts.audit.summary import Row, Summary, checked

TEMPLATES = Path(__file__).parent / "templates"
REPLIES_SHOWN = 2000


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
        replies=[_reply(line) for line in found.replies[-REPLIES_SHOWN:]],
        hidden=max(0, len(found.replies) - REPLIES_SHOWN),
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
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.set_xlabel("MB")
        axes.legend(frameon=False)
        return page.svg(drawn, name="stages", alt="Megabytes by kind of message, in and out.")


def figure_of_days(found: Summary) -> Markup:
    """Bytes that left, by day."""
    with page.drawing():
        drawn = page.figure(1000, 200)
        axes = drawn.subplots()
        days = list(found.days)
        axes.bar(days, [found.days[day] / 1e6 for day in days], 0.6, color=page.ACCENT)
        axes.set_ylabel("MB that left")
        return page.svg(drawn, name="days", alt="Megabytes that left the site, by day (UTC).")


def _row(row: Row) -> dict[str, Any]:
    return {
        **vars(row),
        "metrics": list(row.metrics),
        "rounds": f"{min(row.rounds)}" + (f"-{max(row.rounds)}" if len(row.rounds) > 1 else ""),
    }


def _reply(line: Any) -> dict[str, Any]:
    return {"line": line.sequence, "time": line.time[:19], **line.event}


def _refused(line: Any) -> dict[str, Any]:
    event = line.event
    told = GATE_ERRORS.get(event["code"], "")
    return {"line": line.sequence, "time": line.time[:19], "told": told, **event}
