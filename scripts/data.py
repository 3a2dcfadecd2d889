"""`sonofed data`: look at a site's data before a study does, and bring published sets in."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from clients.data.check import CheckReport, check_folder, find_manifests
from clients.data.contact_sheet import contact_sheet
from clients.data.importers.busbra import read_busbra
from clients.data.importers.busi import read_busi
from clients.data.importers.dicom import import_dicom
from clients.data.importers.layout import Found, import_items
from clients.data.importers.pocus_csv import read_pocus_csv
from clients.data.readers import load_reader
from common.config.data import DataSpec
from common.errors import InputError
from common.plugins import look_in

app = typer.Typer(no_args_is_help=True, help="Check a site's data; import published sets.")
console = Console(highlight=False, soft_wrap=True)


class Layout(StrEnum):
    """The published layouts, and a folder of DICOM files."""

    busi = "busi"
    busbra = "busbra"
    pocus_csv = "pocus-csv"
    dicom = "dicom"


READERS: dict[Layout, Callable[[Path], Found]] = {
    Layout.busi: read_busi,
    Layout.busbra: read_busbra,
    Layout.pocus_csv: read_pocus_csv,
}


@app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with index.csv, or with folders that have one."),
    ],
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN: manifest name and the file's column.")
    ] = None,
    extract: Annotated[
        list[str] | None, typer.Option(help="NAME=REGEX: the part of the cell that counts.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=PATTERN[,PATTERN]: keep matching rows.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="COLUMN=PATTERN[,PATTERN]: leave out matching rows.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="COLUMN=PATTERN[,PATTERN]: these are the test rows.")
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(help="Own reader, package.module:name, installed or in this folder."),
    ] = None,
    classes: Annotated[
        int, typer.Option(min=0, help="Classes of label masks; 0: binary masks.")
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet PNG; default DIR/contact_sheet.png.")
    ] = None,
) -> None:
    """Read a manifest and every file it names; exit 1 if a study could not use it.

    The same --column, --where, --drop and --test as in a study show the rows it would see. A drawn
    split also depends on the site's name in the study and is shown here as an example.
    """
    look_in(Path.cwd())
    spec = _spec(folder, column, extract, where, drop, test, reader)
    manifests = find_manifests(folder)
    failed = False
    for path in manifests:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"reading {path.name}")
            report = check_folder(
                path,
                spec,
                classes=classes,
                progress=lambda done, total: bar.update(task, completed=done, total=total),  # noqa: B023
            )
        _show(report)
        if report.rows:
            target = _sheet_path(sheet, path, alone=len(manifests) == 1)
            drawn = contact_sheet(report, load_reader(reader), target, classes=classes)
            console.print(f"contact sheet of {drawn} images: {target}")
        failed |= bool(report.errors)
    if failed:
        raise typer.Exit(1)


@app.command("import")
def import_(
    layout: Annotated[Layout, typer.Argument(help="How SRC is laid out.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The published set, unpacked.")],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="New folder for the manifest and its files.")
    ],
    link: Annotated[
        bool, typer.Option(help="Hard-link the files instead of copying them.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            help="dicom: file with the key of the pseudonyms, made if missing; it stays at the "
            "site. Default: pseudonym.key beside DST."
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="dicom: take every so many-th frame of a clip.")
    ] = 1,
    whole_frames: Annotated[
        bool,
        typer.Option(
            help="dicom: take frames whose header names no region as they are, with all that is "
            "burned into them."
        ),
    ] = False,
) -> None:
    """Turn a published set, or DICOM ultrasound, into a folder with index.csv; all or nothing.

    Of DICOM only the ultrasound regions are taken; patients and studies become keyed hashes, and
    nothing of the header but probe, spacing and frame time goes on.
    """
    if layout is Layout.dicom:
        _import_dicom(source, target, key or target.parent / "pseudonym.key", every, whole_frames)
        return
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"importing {layout}")
        done = import_items(
            READERS[layout],
            source,
            target,
            link=link,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    labels = ", ".join(
        f"{count} {label or 'without label'}" for label, count in done.labels.items()
    )
    console.print(
        f"{target / 'index.csv'}: {done.images} images ({labels}), {done.masks} with a mask"
    )
    if done.merged:
        console.print(f"{done.merged} masks were merged from several files")
    if done.grouped:
        console.print(f"{done.grouped} images are in groups of near duplicates (column 'group')")


def _import_dicom(source: Path, target: Path, key: Path, every: int, whole: bool) -> None:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("importing dicom")
        done = import_dicom(
            source,
            target,
            key,
            every=every,
            whole=whole,
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    console.print(
        f"{target / 'index.csv'}: {done.frames} frames of {done.clips} clips, "
        f"{done.patients} patients"
    )
    console.print(f"the key of their pseudonyms: {key}; keep it at the site, and keep it")
    if done.unnamed:
        console.print(f"{done.unnamed} clips name no patient; their study stands for one")
    if done.others:
        console.print(f"{done.others} files are no DICOM and were left alone")


def _spec(
    folder: Path,
    column: Iterable[str] | None,
    extract: Iterable[str] | None,
    where: Iterable[str] | None,
    drop: Iterable[str] | None,
    test: Iterable[str] | None,
    reader: str | None,
) -> DataSpec:
    """The data spec that the options describe; InputError with all that is wrong in them."""
    problems: list[str] = []
    tables: dict[str, dict[str, Any]] = {}
    given = {"columns": column, "extract": extract, "where": where, "drop": drop, "test": test}
    for table, pairs in given.items():
        tables[table] = {}
        option = "--" + table.removesuffix("s")
        for pair in pairs or ():
            key, equals, value = pair.partition("=")
            if not (key and equals and value):
                problems.append(f"{option} {pair}: is not NAME=VALUE")
            patterns = table in {"where", "drop", "test"}
            tables[table][key] = tuple(value.split(",")) if patterns else value
    if problems:
        raise InputError(problems)
    try:
        return DataSpec(folder=str(folder), reader=reader, **tables)
    except ValidationError as error:
        raise InputError(
            [
                f"--{str(fault['loc'][0]).removesuffix('s')}: {fault['msg']}"
                for fault in error.errors()
            ]
        ) from None


def _sheet_path(asked: Path | None, folder: Path, *, alone: bool) -> Path:
    """Where a folder's contact sheet goes: beside the data, as it shows patients' pictures."""
    if asked is not None:
        if not asked.parent.is_dir():
            raise InputError(f"--sheet {asked}: there is no folder {asked.parent}")
        return asked if alone else asked.with_stem(f"{asked.stem}-{folder.name}")
    if os.access(folder, os.W_OK):
        return folder / "contact_sheet.png"
    return Path(tempfile.mkdtemp(prefix="sonofed-")) / f"{folder.resolve().name}.png"


def _show(report: CheckReport) -> None:
    """Prints the counts, then warnings, then errors."""
    counts = ", ".join(f"{number} {name}" for name, number in report.counts.items() if number)
    table = Table(title=f"{report.name}: {counts or 'no usable row'}", title_justify="left")
    for name in ("device", "label", "side", "images"):
        table.add_column(name, justify="right" if name == "images" else "left")
    for device, label, side, images in report.table():
        table.add_row(device or "-", label or "-", side or "-", str(images))
    console.print(table)
    if report.split is not None and report.rows:
        sides = ", ".join(f"{len(getattr(report.split, s))} {s}" for s in ("train", "val", "test"))
        console.print(f"split by {report.split.unit}: {sides}")
    if report.sizes is not None:
        small, large = report.sizes
        console.print(f"sizes from {small[0]} x {small[1]} to {large[0]} x {large[1]} pixels")
    if report.empty_masks:
        console.print(f"{report.empty_masks} masks are empty")
    _lines("warning", "yellow", report.warnings)
    _lines("error", "red", report.errors)
    console.print(
        f"{report.name}: {len(report.errors)} errors, {len(report.warnings)} warnings",
        style="red" if report.errors else "green",
    )


def _lines(kind: str, colour: str, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"[{colour}]{kind}:[/] ", end="")
        console.print(line, markup=False)
