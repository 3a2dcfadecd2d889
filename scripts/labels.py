"""`sonofed labels`: experts' labels of the selected images, to and from a site of a run."""

from pathlib import Path
from typing import Annotated

import typer

from clients.annotations import (
    Choice,
    add_labels,
    counted_labels,
    is_closed,
    read_labels,
    standing,
)
from clients.forms.names import wanted_images
from clients.label_file import read_label_file, write_template
from scripts.experts import place_in_run
from scripts.live import say

app = typer.Typer(
    no_args_is_help=True,
    help="Labels of the images that a study has selected: what to annotate, what was annotated.",
)

Run = Annotated[Path, typer.Option(metavar="RUN", help="Run folder.")]
SiteName = Annotated[str, typer.Option(metavar="SITE", help="A target of the study.")]


@app.command("template")
def template(
    run: Run,
    site: SiteName,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write; must not be there.")],
) -> None:
    """Write the table that readers fill in: every selected image, the most wanted first.

    Fill in label, reader and time (ISO 8601, e.g. 2027-03-01T09:30Z; a date will do) and bring it
    back with `sonofed labels import`. Lines without a label are passed over, so a half-filled
    table can be imported too.
    """
    place = place_in_run(run, site)
    count = write_template(out, place.site, place.worklists)
    names = ", ".join(place.asked.labels)
    say(f"{out}: {count} images to annotate as one of {names}")


@app.command("import")
def import_labels(
    file: Annotated[
        Path, typer.Argument(metavar="LABELS.csv", help="id,label,reader,time,image_sha256")
    ],
    run: Run,
    site: SiteName,
) -> None:
    """Bring experts' labels to a site of a run; a study that waits for them goes on by itself.

    The whole file is checked first: if any line is wrong, every problem is said and nothing is
    taken. Equal lines count once. Of several labels of an image the latest counts; all are kept.
    """
    place = place_in_run(run, site)
    settings, worklists = place.site, place.worklists
    known = read_labels(settings.folder)
    found, unlabelled = read_label_file(file, settings, worklists, place.asked.labels, known)
    added = add_labels(settings.folder, found)
    old = len(found) - len(added)
    say(f"{site}: {len(added)} labels taken{f', {old} known already' if old else ''}"
        f"{f', {unlabelled} lines without a label passed over' if unlabelled else ''}")  # fmt: skip
    if is_closed(settings.folder):
        say(
            "the study has gone on already: labels that come now are kept, but nothing in this run "
            "is trained on them"
        )
    _say_standing(worklists, counted_labels(settings.folder))


def _say_standing(worklists: dict[tuple[str, str], list[Choice]], labels: dict[str, str]) -> None:
    for (arm, budget), (have, wanted) in standing(worklists, labels).items():
        left = f", {wanted - have} missing" if have < wanted else ""
        say(f"  {arm}, {budget.replace('_', '.')} %: {have} of {wanted} annotated{left}")
    whole = wanted_images(worklists)
    have = sum(id_ in labels for id_ in whole)
    say(f"  all together: {have} of {len(whole)} images annotated")
