"""`sonofed report`: a run's pages again, from what lies in its folder."""

import csv
import json
from pathlib import Path
from typing import Annotated

import typer

from clients.request import Request
from clients.selection_page import write_selection_page
from clients.site import open_site
from clients.site_list import read_sites
from clients.site_page import write_page
from common.config.study import Study
from common.errors import InputError
from common.plan import make_plan
from scripts.live import say
from scripts.run_folders import read_study
from server.checkpoint import RunFolder
from server.report import write_report

TEXTS = ("image", "arm", "class")


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, finished or not.")],
    sites: Annotated[
        bool, typer.Option(help="The sites' own pages too; they need the sites' images.")
    ] = True,
) -> None:
    """Make RUN/report.html again, and the sites' own pages in RUN/sites/SITE/.

    A run that has not finished shows what there is. Nothing is trained or scored anew.
    """
    say(f"report: {write_report(run)}")
    if sites:
        for line in write_site_pages(run):
            say(line)


def write_site_pages(run: Path) -> list[str]:
    """Make every scored site's page again.

    Returns:
        One line a site: where its page lies, or why there is none.
    """
    listed = run / "sites" / "sites.json"
    if not listed.exists():
        return []
    study = Study.model_validate(read_study(run)).for_sites()
    if study.representation:
        return []
    plan = make_plan(study)
    scored = (RunFolder(run).read_state("evaluate") or {}).get("scored", {})
    judged = (RunFolder(run).read_state("classify") or {}).get("scored", {})
    lines = []
    for site in read_sites(listed):
        if site.name in judged:
            path = write_selection_page(Request(site, study, plan, "classify"))
            lines.append(f"{site.name}: {path or 'the study wants no pictures'}")
        if not plan.arms:
            continue
        if site.name not in scored or not (site.folder / "scores.csv").exists():
            lines.append(f"{site.name}: not scored yet")
            continue
        request = Request(site, study, plan, "evaluate")
        main = next(name for name, arm in plan.arms.items() if arm.members.get(site.name))
        try:
            data = open_site(site, study)
        except InputError as error:
            lines.append(f"{site.name}: its images are not to be had: {error.problems[0]}")
            continue
        write_page(request, data, _table(site.folder / "scores.csv"), scored[site.name], main)
        lines.append(f"{site.name}: {site.folder / 'report.html'}")
    return lines


def _table(path: Path) -> list[dict[str, str | float]]:
    """A site's scores as they were written: names, numbers, nothing where undefined."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                name: text if name in TEXTS or not text else json.loads(text)
                for name, text in row.items()
            }
            for row in csv.DictReader(file)
        ]
