"""`sonofed audit show`: what left a site, as a table or as one page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from common.errors import InputError
from common.ledger_check import read
from common.page import count, megabytes
from scripts.audit.page import write_page
from scripts.audit.summary import Row, Summary, checked, summarise
from scripts.foreign import tell
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
    if not found.lines:
        raise InputError(f"{path}: holds no whole line, so there is nothing to show")
    tell(f"{found.site or 'a site'}, {count(found.lines, 'line')}, {found.first} to {found.last}")
    show_table(table(found))
    tell(totals(found))
    for line in found.refused:
        way = "not let in" if line.event["way"] == "in" else "not let out"
        why = [*line.event["why"], "no reason is given"][0]
        tell(f"line {line.sequence}: {way} (code {line.event['code']}): {why}")
    for words in [f"line {line.sequence}: {checked(line)}" for line in found.checks]:
        tell(words)
    for words in found.remarks:
        tell(words)
    if html or out is not None:
        target = out or path.with_suffix(".html")
        write_page(found, target)
        tell(f"page: {target}")


def totals(found: Summary) -> str:
    """What left, what came in, what was refused, in one line."""
    told = [f"left: {count(len(found.replies), 'message')}, {megabytes(found.left_bytes)} MB"]
    if found.not_taken:
        told.append(
            f"not taken by the server: {count(len(found.not_taken), 'message')}, "
            f"{megabytes(found.not_taken_bytes)} MB"
        )
    told.append(f"came in: {count(len(found.came), 'message')}, {megabytes(found.came_bytes)} MB")
    return "; ".join([*told, f"refused: {count(len(found.refused), 'message')}"])


def table(found: Summary) -> Table:
    """The exchanges as a table for a terminal."""
    made = Table(box=None, pad_edge=False)
    for name in ("study", "message", "what", "rounds", "in", "MB in", "out", "MB out", "not taken",
                 "tensors", "scalars", "codes", "refused"):  # fmt: skip
        made.add_column(name, justify="left" if name in ("study", "message", "what") else "right")
    for row in found.rows.values():
        cells = (
            row.study, row.message, row.what, row.span, row.came, megabytes(row.came_bytes),
            row.left, megabytes(row.left_bytes), row.not_taken or "-", row.tensors, scalars(row),
            " ".join(map(str, row.codes)) or "-", row.refused or "-",
        )  # fmt: skip
        # Not as strings: rich would read markup in them.
        made.add_row(*(Text(str(words)) for words in cells))
    return made


def scalars(row: Row) -> str:
    """The names, if they are few; else how many."""
    names = list(row.metrics)
    return ", ".join(names) if len(names) <= NAMES_SHOWN else str(len(names))
