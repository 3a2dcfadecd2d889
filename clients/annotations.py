"""What a site has chosen, and what counts of what its experts have said: files in its folder.

`selection/<arm>/<budget>/worklist.csv` is what an arm asks experts to annotate, best first;
`labels.csv`, `outlines.csv` and `decisions.csv` are all they have said (`clients/words.py`), and
`clients/consensus.py` has the rule by which it counts; `selection/annotated.csv` and
`selection/outlined.csv` are what counted when the study went on, so that what is trained afterwards
is trained on equal labels whoever adds more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.consensus import read_rules, settled_labels, settled_outlines, words_of
from clients.tables import one_writer, read_table, write_table
from clients.words import (
    CLOSED_OUTLINES,
    LABEL_COLUMNS,
    LABELS,
    Label,
    add_labels,
    read_decisions,
    read_labels,
    read_outlines,
    utc,
)
from common.config.selection import budget_name
from common.errors import InputError

__all__ = [
    "LABELS",
    "LABEL_COLUMNS",
    "WORKLIST",
    "Choice",
    "Label",
    "add_labels",
    "all_worklists",
    "annotated",
    "close_labels",
    "counted_labels",
    "counted_outlines",
    "is_closed",
    "read_labels",
    "read_worklist",
    "standing",
    "utc",
    "worklist_path",
    "write_worklist",
]

WORKLIST = "worklist.csv"
WORKLIST_COLUMNS = ("id", "rank", "uncertainty", "distance", "reason")
CLOSED = "annotated.csv"
CLOSED_COLUMNS = ("id", "label")
CLOSED_OUTLINE_COLUMNS = ("id", "outline")


@dataclass(frozen=True)
class Choice:
    """One line of a worklist.

    Attributes:
        id: The image, as the site's manifest names it.
        rank: From 1, the first to be annotated.
        reason: Why it was chosen, for the reader.
        uncertainty: Of the dual score (radians), None where the strategy has none.
        distance: Between image and reconstruction (radians), None where there is none.
    """

    id: str
    rank: int
    reason: str
    uncertainty: float | None = None
    distance: float | None = None


def worklist_path(site_folder: Path, arm: str, budget: float) -> Path:
    """Where an arm's choice at a budget lies."""
    return site_folder / "selection" / arm / budget_name(budget) / WORKLIST


def write_worklist(site_folder: Path, arm: str, budget: float, choices: Sequence[Choice]) -> Path:
    """Write what an arm chose, in one move; a site that has nothing to do gets an empty list.

    Args:
        site_folder: The site's own folder in the run.
        arm: As the plan's selection names it.
        budget: Share of the pool.
        choices: In rank order.
    """
    path = worklist_path(site_folder, arm, budget)
    rows = [(c.id, str(c.rank), _text(c.uncertainty), _text(c.distance), c.reason) for c in choices]
    write_table(path, WORKLIST_COLUMNS, rows)
    return path


def read_worklist(site_folder: Path, arm: str, budget: float) -> list[Choice]:
    """What an arm chose, in rank order.

    Raises:
        InputError: If it has not chosen yet.
    """
    path = worklist_path(site_folder, arm, budget)
    if not path.exists():
        raise InputError(f"{path}: is not there; nothing has been selected for {arm} yet")
    return _choices(path)


def all_worklists(site_folder: Path) -> dict[tuple[str, str], list[Choice]]:
    """Every worklist of a site: (arm, budget's name) to its choices, small budgets first."""
    paths = site_folder.glob(f"selection/*/*/{WORKLIST}")
    names = {(path.parent.parent.name, path.parent.name): path for path in paths}
    order = sorted(names, key=lambda name: (name[0], float(name[1].replace("_", "."))))
    return {name: _choices(names[name]) for name in order}


def close_labels(site_folder: Path) -> None:
    """Settle what the study goes on with; what comes later counts no more in this run.

    Closing twice changes nothing.
    """
    path = site_folder / "selection" / CLOSED
    with one_writer(site_folder):
        if not path.exists():
            outlines, labels = counted_outlines(site_folder), counted_labels(site_folder)
            # The labels last: their file is what says that all is settled.
            write_table(
                path.with_name(CLOSED_OUTLINES), CLOSED_OUTLINE_COLUMNS, list(outlines.items())
            )
            write_table(path, CLOSED_COLUMNS, list(labels.items()))


def is_closed(site_folder: Path) -> bool:
    """Whether the study has gone on from `annotate`."""
    return (site_folder / "selection" / CLOSED).exists()


def counted_labels(site_folder: Path) -> dict[str, str]:
    """Image to label: as it was when the study went on, or as it is now while it still waits."""
    if is_closed(site_folder):
        closed = read_table(site_folder / "selection" / CLOSED, CLOSED_COLUMNS)
        return {row["id"]: row["label"] for row in closed}
    rules = read_rules(site_folder)
    settled = settled_labels(words_of(read_labels(site_folder)), read_decisions(site_folder), rules)
    found = {id_: image.word for id_, image in settled.items() if image.word}
    if not rules.outlines:
        return found
    outlined = counted_outlines(site_folder)
    return {id_: label for id_, label in found.items() if id_ in outlined}


def counted_outlines(site_folder: Path) -> dict[str, str]:
    """Image to the SHA-256 of its mask: as when the study went on, or as it is now."""
    if is_closed(site_folder):
        path = site_folder / "selection" / CLOSED_OUTLINES
        closed = read_table(path, CLOSED_OUTLINE_COLUMNS)
        return {row["id"]: row["outline"] for row in closed}
    outlines = words_of(read_outlines(site_folder))
    if not outlines:
        return {}
    settled = settled_outlines(
        site_folder, outlines, read_decisions(site_folder), read_rules(site_folder)
    )
    return {id_: image.word for id_, image in settled.items() if image.word}


def annotated(site_folder: Path, arm: str, budget: float) -> tuple[list[str], list[str]]:
    """The selected images that have a label, and the label of each.

    Args:
        site_folder: The site's own folder in the run.
        arm: As the plan's selection names it.
        budget: Share of the pool.

    Returns:
        Image ids in rank order, and as many labels.

    Raises:
        InputError: If the arm has not chosen yet.
    """
    labels = counted_labels(site_folder)
    ids = [c.id for c in read_worklist(site_folder, arm, budget) if c.id in labels]
    return ids, [labels[id_] for id_ in ids]


def standing(
    worklists: Mapping[tuple[str, str], Sequence[Choice]], labels: Mapping[str, str]
) -> dict[tuple[str, str], tuple[int, int]]:
    """How many of each worklist are annotated, and how many are wanted."""
    return {
        name: (sum(choice.id in labels for choice in choices), len(choices))
        for name, choices in worklists.items()
    }


def _choices(path: Path) -> list[Choice]:
    return [
        Choice(
            row["id"], int(row["rank"]), row["reason"], _number(row["uncertainty"]),
            _number(row["distance"]),
        )
        for row in read_table(path, WORKLIST_COLUMNS)
    ]  # fmt: skip


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _number(text: str) -> float | None:
    return float(text) if text else None
