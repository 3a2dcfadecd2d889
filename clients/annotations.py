"""What a site has chosen and what its experts have said of it: files that stay in its folder.

`selection/<arm>/<budget>/worklist.csv` is what an arm asks experts to annotate, best first;
`labels.csv` is all they have said, by every reader; `selection/annotated.csv` is the label of each
image as it stood when the study went on, so that what is trained afterwards is trained on equal
labels whoever adds more.
"""

import csv
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.config.selection import budget_name
from common.errors import InputError

WORKLIST = "worklist.csv"
WORKLIST_COLUMNS = ("id", "rank", "uncertainty", "distance", "reason")
LABELS = "labels.csv"
LABEL_COLUMNS = ("id", "label", "reader", "time", "image_sha256")
CLOSED = "annotated.csv"
CLOSED_COLUMNS = ("id", "label")


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


@dataclass(frozen=True)
class Label:
    """What one reader said of one image.

    Attributes:
        id: The image.
        label: One of the study's labels.
        reader: Who said it.
        time: When, as `utc` writes it.
        image_sha256: Of the image's file as the reader saw it.
    """

    id: str
    label: str
    reader: str
    time: str
    image_sha256: str


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
    _write(path, WORKLIST_COLUMNS, rows)
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


def utc(text: str) -> str:
    """A time in ISO 8601 as labels.csv keeps it: UTC, `2027-03-01T09:30:00Z`.

    A time without an offset is taken for UTC.

    Raises:
        ValueError: If it is no such time.
    """
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def read_labels(site_folder: Path) -> list[Label]:
    """All that was said at a site, in the order in which it came."""
    return [Label(**row) for row in _rows(site_folder / LABELS, LABEL_COLUMNS)]


def add_labels(site_folder: Path, new: Sequence[Label]) -> list[Label]:
    """Add lines to labels.csv, each once, all of them or none.

    Returns:
        Those that were not there yet.
    """
    with _locked(site_folder):
        old = read_labels(site_folder)
        known = set(old)
        added = [label for label in dict.fromkeys(new) if label not in known]
        if added:
            rows = [tuple(getattr(x, n) for n in LABEL_COLUMNS) for x in (*old, *added)]
            _write(site_folder / LABELS, LABEL_COLUMNS, rows)
    return added


def latest(labels: Sequence[Label]) -> dict[str, Label]:
    """The label of each image that counts: the latest by time, of equal times the last line."""
    found: dict[str, Label] = {}
    for label in labels:
        known = found.get(label.id)
        if known is None or _moment(label) >= _moment(known):
            found[label.id] = label
    return found


def close_labels(site_folder: Path) -> None:
    """Settle the labels that the study goes on with; what comes later counts no more in this run.

    Closing twice changes nothing.
    """
    path = site_folder / "selection" / CLOSED
    if not path.exists():
        rows = [(id_, label.label) for id_, label in latest(read_labels(site_folder)).items()]
        _write(path, CLOSED_COLUMNS, rows)


def is_closed(site_folder: Path) -> bool:
    """Whether the study has gone on from `annotate`."""
    return (site_folder / "selection" / CLOSED).exists()


def counted_labels(site_folder: Path) -> dict[str, str]:
    """Image to label: as it was when the study went on, or as it is now while it still waits."""
    if is_closed(site_folder):
        closed = _rows(site_folder / "selection" / CLOSED, CLOSED_COLUMNS)
        return {row["id"]: row["label"] for row in closed}
    return {id_: label.label for id_, label in latest(read_labels(site_folder)).items()}


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


def _moment(label: Label) -> datetime:
    return datetime.fromisoformat(label.time)


def _choices(path: Path) -> list[Choice]:
    return [
        Choice(
            row["id"], int(row["rank"]), row["reason"], _number(row["uncertainty"]),
            _number(row["distance"]),
        )
        for row in _rows(path, WORKLIST_COLUMNS)
    ]  # fmt: skip


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a file of this module's, none where there is no file.

    Raises:
        InputError: If somebody has changed its columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        if tuple(reader.fieldnames or ()) != tuple(columns) or any(
            None in row or None in row.values() for row in rows
        ):
            raise InputError(f"{path}: is not as it was written; its columns are {list(columns)}")
    return rows


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    partial.replace(path)


@contextmanager
def _locked(site_folder: Path) -> Iterator[None]:
    """One writer of labels.csv at a time: two readers may bring theirs at once."""
    site_folder.mkdir(parents=True, exist_ok=True)
    with (site_folder / f"{LABELS}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
