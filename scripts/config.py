"""`sonofed config show`: every key a study may have, or what a study has made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.config.explain import Option, generic, options, resolved
from common.config.load import FINETUNES, load_study
from common.errors import InputError
from scripts.live import console, say

app = typer.Typer(no_args_is_help=True, help="What a study may say.")

SHARED = "finetune"


@app.callback()
def main() -> None:
    """What a study may say."""


@app.command()
def show(
    study_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY.toml]", help="Show this study's values, changed ones marked."
        ),
    ] = None,
    md: Annotated[bool, typer.Option("--md", help="A Markdown table.")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="One line a key: key = default [range].")
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Only keys that begin so, such as mim.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
    ] = None,
) -> None:
    """Every key with its default, range, meaning and the papers' setting.

    P1 is the cross-domain pretraining paper. A study needs `name`, `sites` and whatever differs
    from the defaults; the table [finetune] holds what [finetune_mim], [finetune_contrastive],
    [lower] and [upper] have in common.
    """
    every = options()
    if keys:
        for line in key_lines(every):
            say(line)
        return
    if study_file is None:
        if override:
            raise InputError("--set: name the study that it changes")
        head = ["key", "default", "range", "meaning", "paper"]
        rows = [[o.key, o.default, o.allowed, o.text, o.paper] for o in _shared_once(every)]
    else:
        head = ["", "key", "value", "default", "range", "meaning", "paper"]
        rows = study_rows(study_file, override or [], every)
    place = head.index("key")
    rows = [row for row in rows if only is None or row[place].startswith(only)]
    if not rows:
        raise InputError(f"--only {only}: no key begins so")
    (_markdown if md else _terminal)(head, rows)


def key_lines(every: Sequence[Option]) -> list[str]:
    """`key = default [range]`, one a key: what the frozen list of keys is compared with."""
    return [f"{o.key} = {o.default} [{o.allowed}]" for o in every]


def study_rows(
    study_file: Path, overrides: Sequence[str], every: Sequence[Option]
) -> list[list[str]]:
    """Every key of a study with its value; a star before what differs from its default."""
    study = load_study(study_file, overrides)
    known = {option.key: option for option in every}
    rows = []
    for key, value in resolved(study).items():
        option = _option_of(generic(key), known)
        if option is None:  # an optional table that is not there
            continue
        mark = "" if value == option.default else "*"
        rows.append([mark, key, value, option.default, option.allowed, option.text, option.paper])
    return rows


def _option_of(key: str, known: dict[str, Option]) -> Option | None:
    """The key's option; what lies in a free table (columns, where) belongs to the table's key."""
    while key and key not in known:
        key = key.rpartition(".")[0]
    return known.get(key)


def _shared_once(every: Sequence[Option]) -> list[Option]:
    """The four fine-tuning tables as one [finetune], since their keys and defaults are the same."""
    shown = []
    for option in every:
        table, _, key = option.key.partition(".")
        if table == FINETUNES[0]:
            shown.append(
                Option(f"{SHARED}.{key}", option.default, option.allowed, option.text, option.paper)
            )
        elif table not in FINETUNES:
            shown.append(option)
    return shown


def _terminal(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not console.is_terminal:
        for row in rows:
            say("  ".join(cell for cell in row if cell))
        return
    table = Table(show_lines=False)
    for name in head:
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for row in rows:
        style = "bold" if row[0] == "*" else ""
        table.add_row(*(cell.replace("[", r"\[") for cell in row), style=style)
    console.print(table)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say("| " + " | ".join(head) + " |")
    say("|" + "---|" * len(head))
    for row in rows:
        say("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
