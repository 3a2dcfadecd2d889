"""Taking away what studies have left at a site: of one study, of one patient, or all of it.

What has left cannot be called back, and what is removed cannot be shown again; so the ledger gets a
line with how many files went and the SHA-256 over theirs. It names no study's patient and no path.
"""

import csv
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clients.annotations import CLOSED, WORKLIST
from clients.asked import ASKED
from clients.consensus import RULES
from clients.data.manifest import read_manifest
from clients.gate.book import Book
from clients.gate.facts import RefusedError
from clients.gate.reading import read_asked
from clients.gate.spool import Exchange, Spool
from clients.site_file import SiteFile
from clients.tables import write_table
from clients.words import CLOSED_OUTLINES, DECISIONS, LABELS, OUTLINE_FOLDER, OUTLINES
from common.errors import InputError

SPOOL = "spool"
STUDY_FOLDER = re.compile(r".+-[0-9a-f]{8}")
"""As `clients.settings.study_folder` names them."""
TABLES = (LABELS, OUTLINES, DECISIONS, CLOSED, CLOSED_OUTLINES, WORKLIST)
"""Tables with a column `id`: experts' work, which nothing can make again."""
KEPT = (*TABLES, ASKED, RULES)
Less = tuple[list[str], list[list[str]]]
"""Columns and rows of a table that loses some."""


@dataclass(frozen=True)
class Purged:
    """What was taken away.

    Attributes:
        files: How many files went, or lost lines.
        bytes: Of the files as they were.
        digest: SHA-256 over the sorted SHA-256 of each of them.
    """

    files: int
    bytes: int
    digest: str


def purge_study(site: SiteFile, study: str) -> Purged:
    """Take away a study's folder, whatever its settings were, and its messages in the spool.

    Args:
        site: The site's file; its gate must not be running.
        study: The study's name.

    Raises:
        InputError: If a gate runs, or no such study has left anything.
    """
    folders = [f for f in _studies(site) if f.name.rpartition("-")[0] == study]
    with closing(_spool(site)) as spool:
        waiting = [e for e in spool.exchanges.values() if _study_of(e, spool.node_id) == study]
        if not folders and not waiting:
            known = sorted({f.name.rpartition("-")[0] for f in _studies(site)})
            raise InputError(
                f"{site.site.name}: nothing is here of a study {study!r}; "
                + (f"there are {', '.join(known)}" if known else "no study has left anything")
            )
        return _take(site, "study", [*folders, *(exchange.folder for exchange in waiting)])


def purge_all(site: SiteFile) -> Purged:
    """Take away the cache, all studies' folders and the spool. Keys, policy and ledger stay.

    Raises:
        InputError: If a gate runs.
    """
    with closing(_spool(site)) as spool:
        waiting = [exchange.folder for exchange in spool.exchanges.values()]
        return _take(site, "all", [site.site.cache, *_folders(site), *waiting])


def purge_patient(site: SiteFile, patient: str) -> Purged:
    """Take away all that may hold one patient's pixels or numbers.

    That is the cache and, of every study, all but what experts have said; of that, the patient's
    lines and outlines. What goes is made again by the next stage, without the patient once the
    manifest has no line of theirs.

    Args:
        site: The site's file; its gate must not be running.
        patient: As the manifest's column `patient` has it.

    Raises:
        InputError: If a gate runs, or the manifest has no such patient.
    """
    rows = read_manifest(site.site.data_folder, site.site.data)
    images = {row.id for row in rows if row.patient == patient}
    if not images:
        raise InputError(
            f"{site.site.data_folder}: no row has this patient; purge before you remove the rows"
        )
    with closing(_spool(site)) as spool:
        waiting = [exchange.folder for exchange in spool.exchanges.values()]
        gone: list[Path] = [site.site.cache, *waiting]
        rewritten: list[tuple[Path, Less]] = []
        for folder in _folders(site):
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                if path.parent.name == OUTLINE_FOLDER:
                    continue
                if path.name not in KEPT:
                    gone.append(path)
                elif path.name in TABLES and (less := _without(path, images)) is not None:
                    rewritten.append((path, less))
            gone += _outlines_of(folder, images)
        return _take(site, "patient", gone, rewritten)


def _take(
    site: SiteFile,
    what: str,
    places: Iterable[Path],
    rewritten: Sequence[tuple[Path, Less]] = (),
) -> Purged:
    """Remove, and write it into the ledger: the line first, so that nothing goes unsaid."""
    places = [place for place in places if place.exists()]
    files = [file for place in places for file in _files(place)]
    files += [path for path, _ in rewritten]
    found = Purged(
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        digest=hashlib.sha256("\n".join(sorted(map(_sha256, files))).encode()).hexdigest(),
    )
    with Book(site.gate.folder, site.site.name, "gate") as book:
        book.ledger.append(
            {"kind": "purged", "what": what, "files": found.files, "bytes": found.bytes,
             "digest": found.digest}
        )  # fmt: skip
    for path, (columns, rows) in rewritten:
        write_table(path, columns, rows)
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    return found


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in sorted(place.rglob("*")) if path.is_file())
    else:
        yield place


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(site: SiteFile) -> list[Path]:
    """All that training writes in: each study's folder, and what lies beside them."""
    work = site.site.folder
    return sorted(path for path in work.iterdir() if path.is_dir()) if work.is_dir() else []


def _studies(site: SiteFile) -> list[Path]:
    """Each study's folder at the site."""
    return [path for path in _folders(site) if STUDY_FOLDER.fullmatch(path.name)]


def _spool(site: SiteFile) -> Spool:
    """The gate's, locked: nothing is taken away under a gate at work."""
    try:
        return Spool(site.gate.folder / SPOOL)
    except InputError as error:
        raise InputError([*error.problems, "`sonofed site down` first"]) from None


def _study_of(exchange: Exchange, node_id: int | None) -> str:
    try:
        return str(read_asked(exchange, "", node_id).facts.study.get("name"))
    except (RefusedError, OSError):
        return ""  # not all of it has come: it says nothing yet


def _without(path: Path, images: set[str]) -> Less | None:
    """A table's columns and rows without some images'; None where it has none of them."""
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = csv.reader(file)
    place = columns.index("id")
    kept = [row for row in rows if row[place] not in images]
    return None if len(kept) == len(rows) else (columns, kept)


def _outlines_of(folder: Path, images: set[str]) -> list[Path]:
    """Masks of these images that lie beside a study's tables."""
    table = folder / OUTLINES
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    theirs = {row["outline"] for row in rows if row["id"] in images}
    # Two images may share a mask to the bit, an empty one for instance.
    theirs -= {row["outline"] for row in rows if row["id"] not in images}
    return [folder / OUTLINE_FOLDER / f"{name}.png" for name in sorted(theirs) if name]
