"""`sonofed labels`: experts' labels of the selected images, to and from a site of a run."""

from pathlib import Path
from typing import Annotated

import typer

from clients.annotations import Choice, counted_labels, is_closed, standing
from clients.forms.bring import bring
from clients.forms.export import Form, export
from clients.forms.names import wanted_images
from clients.forms.tasks import read_tasks
from clients.label_file import write_template
from scripts.experts import Place, check_owner, place_in_run, place_of_site
from scripts.live import say

app = typer.Typer(
    no_args_is_help=True,
    help="Labels of the images that a study has selected: what to annotate, what was annotated.",
)

Run = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Run folder; a hospital's own site needs none.")
]
SiteName = Annotated[
    str,
    typer.Option(metavar="SITE", help="A target of the run; without --run the path of site.toml."),
]

StudyName = Annotated[
    str, typer.Option(metavar="STUDY", help="At a hospital's own site, where several studies wait.")
]


@app.command("template")
def template(
    site: SiteName,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write; must not be there.")],
    run: Run = None,
    study: StudyName = "",
) -> None:
    """Write the table that readers fill in: every selected image, the most wanted first.

    Fill in label, reader and time (ISO 8601, e.g. 2026-03-01T09:30Z; a date will do) and bring it
    back with `sonofed labels import`. Lines without a label are passed over, so a half-filled
    table can be imported too.
    """
    place = _place(run, site, study)
    count = write_template(out, place.site, place.worklists)
    names = ", ".join(place.asked.labels)
    say(f"{out}: {count} images to annotate as one of {names}")


@app.command("export")
def export_labels(
    site: SiteName,
    to: Annotated[Form, typer.Option(help="The other tool's form.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder; it will hold images.")],
    run: Run = None,
    study: StudyName = "",
) -> None:
    """Write what was selected, and all that is said of it, for another tool.

    coco: CVAT, FiftyOne; labelstudio: Label Studio, with its labelling interface; nrrd: 3D Slicer,
    ITK-SNAP; csv: a table with masks as PNG. `sonofed labels import` takes each of them back. The
    folder holds images: it stays at the site. Images have names by which they are known again;
    keep the long number in them.
    """
    place = _place(run, site, study)
    found = export(read_tasks(place.site, place.asked), to, out)
    say(f"{found.path}: {found.images} images, {found.labels} labels, {found.outlines} outlines")
    say(f"{out} holds images of {place.site.name}: it stays at the site")


@app.command("import")
def import_labels(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Table, COCO or Label Studio JSON, or the folder of an export."
        ),
    ],
    site: SiteName,
    run: Run = None,
    study: StudyName = "",
    reader: Annotated[
        str, typer.Option(metavar="NAME", help="Who read, where the file does not say.")
    ] = "",
) -> None:
    """Bring experts' labels and outlines to a site; a study that waits for them goes on by itself.

    The whole file is checked first: if any line is wrong, every problem is said and nothing is
    taken. What is known already is passed over, so a file may be brought twice. How several
    readers' words count: docs/annotate.md.
    """
    place = _place(run, site, study)
    check_owner(place)
    folder = place.site.folder
    taken, silent = bring(file, place.site, place.asked, place.worklists, reader)
    outlines = f" and {len(taken.outlines)} outlines" if taken.outlines else ""
    say(f"{place.site.name}: {len(taken.labels)} labels{outlines} taken"
        f"{f', {taken.known} known already' if taken.known else ''}"
        f"{f', {silent} lines without a label passed over' if silent else ''}")  # fmt: skip
    if is_closed(folder):
        say(
            "the study has gone on already: labels that come now are kept, but nothing in this run "
            "is trained on them"
        )
    _say_standing(place.worklists, counted_labels(folder))


def _place(run: Path | None, site: str, study: str) -> Place:
    return place_of_site(Path(site), study) if run is None else place_in_run(run, site)


def _say_standing(worklists: dict[tuple[str, str], list[Choice]], labels: dict[str, str]) -> None:
    for (arm, budget), (have, wanted) in standing(worklists, labels).items():
        left = f", {wanted - have} missing" if have < wanted else ""
        say(f"  {arm}, {budget.replace('_', '.')} %: {have} of {wanted} annotated{left}")
    whole = wanted_images(worklists)
    have = sum(id_ in labels for id_ in whole)
    say(f"  all together: {have} of {len(whole)} images annotated")
