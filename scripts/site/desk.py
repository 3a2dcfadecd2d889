"""`sonofed site desk`: a page on the hospital's own machine where experts read images."""

from pathlib import Path
from typing import Annotated

import typer

from clients.annotations import is_closed
from clients.consensus import RULES, Rules, read_rules, write_rules
from clients.desk.desk import Desk
from clients.desk.run import serve
from common.errors import InputError
from scripts.experts import check_owner, place_in_run, place_of_site
from scripts.live import say


def desk(
    site: Annotated[
        Path | None, typer.Option(metavar="SITE.toml", help="The hospital's own site file.")
    ] = None,
    study: Annotated[
        str, typer.Option(metavar="NAME", help="With --site, where several studies have selected.")
    ] = "",
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Instead: a run on this machine.")
    ] = None,
    site_name: Annotated[
        str | None, typer.Option(metavar="SITE", help="With --run: a target of it.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the browser, if there is a screen.")] = True,
    readers: Annotated[
        int | None,
        typer.Option(min=1, max=9, help="Readers who must have spoken before an image counts."),
    ] = None,
    labels_only: Annotated[
        bool | None,
        typer.Option(
            "--labels-only/--with-outlines",
            help="Whether a label counts before its image is outlined, in a study that wants "
            "outlines.",
        ),
    ] = None,
) -> None:
    """Read the selected images in the browser: labels, outlines, and where readers disagree.

    The page is served to this machine alone, behind a link that works once. What is said is saved
    at once, in the site's own folder; a study that waits for it goes on by itself. Only counts
    leave.
    `--readers` and `--labels-only` are remembered.
    """
    if site is not None and run is None and site_name is None:
        place = place_of_site(site, study)
    elif site is None and run is not None and site_name is not None:
        place = place_in_run(run, site_name)
    else:
        raise InputError("name the site: --site SITE.toml, or --run RUN with --site-name SITE")
    folder = place.site.folder
    check_owner(place)
    known = read_rules(folder) if (folder / RULES).exists() else None
    rules = _rules(known, readers, labels_only, place.asked.outlines)
    if rules != known:
        write_rules(folder, rules)
    found = Desk(place.site, place.asked)
    if is_closed(folder):
        say("the study has gone on already: what is said now is kept, but this run learns nothing "
            "from it")  # fmt: skip
    say(_words(rules, place.asked.outlines))
    serve(found, port, browser=browser, say=say)


def _rules(
    known: Rules | None, readers: int | None, labels_only: bool | None, asked: bool
) -> Rules:
    # The first desk of a site: what the study wants is waited for.
    before = known or Rules(outlines=asked)
    return Rules(
        readers=before.readers if readers is None else readers,
        outlines=asked and (before.outlines if labels_only is None else not labels_only),
    )


def _words(rules: Rules, asked: bool) -> str:
    many = "one reader has" if rules.readers == 1 else f"{rules.readers} readers have"
    what = "labelled it" if not asked else (
        "labelled and outlined it" if rules.outlines else "labelled it, outlined or not"
    )  # fmt: skip
    return f"an image counts once {many} {what}, and they agree or somebody has decided"
