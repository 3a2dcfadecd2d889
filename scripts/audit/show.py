"""`sonofed audit show`: what left a site, as a table or as one page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.ledger_check import read
from common.page import count, megabytes
from scripts.audit.page import write_page
from scripts.audit.summary import Row, Summary, checked, summarise
from scripts.live import say
from scripts.live import show as show_table

NAMES_SHOWN = 4


def show(
    ledger: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="ledger.jsonl, or the site's folder.")
    ],
    html: Annotated[
        bool, typer.Option("--html", help="Write one self-contained page beside the ledger.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; implies --html.")
    ] = None,
) -> None:
    """Show what came in, what left and what was refused, by study, stage and round.

    This reads; `sonofed audit verify` says whether what it reads can be believed.
    """
    path = ledger / "ledger.jsonl" if ledger.is_dir() else ledger
    found = summarise(read(path))
    say(f"{found.site or 'a site'}, {count(found.lines, 'line')}, {found.first} to {found.last}")
    show_table(table(found))
    say(
        f"left: {count(len(found.replies), 'message')}, {megabytes(found.left_bytes)} MB; "
        f"came in: {megabytes(found.came_bytes)} MB; "
        f"refused: {count(len(found.refused), 'message')}"
    )
    for line in found.refused:
        way = "not let in" if line.event["way"] == "in" else "not let out"
        say(f"line {line.sequence}: {way} (code {line.event['code']}): {line.event['why'][0]}")
    for line in found.checks:
        say(f"line {line.sequence}: {checked(line)}")
    if html or out is not None:
        target = out or path.with_suffix(".html")
        write_page(found, target)
        say(f"page: {target}")


def table(found: Summary) -> Table:
    """The exchanges as a table for a terminal."""
    made = Table(box=None, pad_edge=False)
    for name in ("study", "message", "what", "rounds", "in", "MB in", "out", "MB out", "tensors",
                 "scalars", "codes", "refused"):  # fmt: skip
        made.add_column(name, justify="left" if name in ("study", "message", "what") else "right")
    for row in found.rows.values():
        made.add_row(
            row.study, row.message, row.what, rounds(row), str(row.came),
            megabytes(row.came_bytes), str(row.left), megabytes(row.left_bytes),
            str(row.tensors), scalars(row), " ".join(map(str, row.codes)) or "-",
            str(row.refused or "-"),
        )  # fmt: skip
    return made


def rounds(row: Row) -> str:
    """`1`, or `1-3`."""
    low, high = min(row.rounds), max(row.rounds)
    return str(low) if low == high else f"{low}-{high}"


def scalars(row: Row) -> str:
    """The names, if they are few; else how many."""
    names = list(row.metrics)
    return ", ".join(names) if len(names) <= NAMES_SHOWN else str(len(names))
