"""`sonofed simulate`: a whole federated study on one machine."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clients.settings import SiteSettings
from clients.site_list import write_sites
from common.config.load import load_study
from common.config.study import Study
from common.estimate import fitting_jobs
from common.plan import Plan, make_plan
from common.plugins import look_in
from scripts import prepare
from scripts.dry_run import dry_run as show_dry_run
from scripts.live import Live, Steps, say
from scripts.machine import memory_for
from scripts.policies import site_policies, with_policies
from scripts.share import take_equal, write_identities
from scripts.smoke import Smoke, smoke_data, smoke_study
from server.context import StudyStopped
from server.report import write_report

WORDS_SHOWN = 5
"""Lines of a site's own log that are shown when a study stops."""


class Engine(StrEnum):
    """What carries the messages."""

    inprocess = "inprocess"
    ray = "ray"


def simulate(
    study_file: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", help="The study; `sonofed init` writes one.")
    ],
    engine: Annotated[
        Engine, typer.Option(help="inprocess: one process (or --jobs); ray: Flower's simulation.")
    ] = Engine.inprocess,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="SONOFED_DATA", help="Folder that the sites' folders lie in."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/STUDY-DIGEST.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over the study, such as mim.epochs=5; repeatable."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Sites at work at the same time; fewer where memory ends."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last finished round; begin where there is none.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Train nothing: show each training's parameters, memory, steps, MB to move."
        ),
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            help="One step on 2 images a stage, to see that all of it runs; random weights and "
            "phantom images stand in for files that are not here; the run is marked untrained."
        ),
    ] = False,
    share: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Take finished trainings that are equal in every respect from the runs in DIR.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE=FILE",
            help="Judge that site's messages by a hospital's own policy; repeatable. What it would "
            "refuse is told before anything runs.",
        ),
    ] = None,
) -> None:
    """Run a federated study on one machine, every site with its own data and folder.

    Prints where the report lies. Stopped or killed, the same command with --resume goes on and
    ends with the same weights and results to the last bit.
    """
    look_in(study_file.parent)
    study = load_study(study_file, override or [])
    root = data_root or Path("data")
    if dry_run:
        prepare.check_parts(study)
        show_dry_run(study, root)
        return
    smoke_run = smoke_study(study, root) if smoke else None
    try:
        run_study_here(
            smoke_run.study if smoke_run else study,
            engine,
            root,
            out,
            resume,
            jobs=jobs,
            smoke=smoke_run,
            share=share,
            policy=policy or (),
        )
    except StudyStopped:
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("stopped; the same command with --resume goes on from the last finished round")
        raise typer.Exit(130) from None


def run_study_here(
    study: Study,
    engine: Engine,
    data_root: Path,
    out: Path | None,
    resume: bool,
    *,
    jobs: int | None = None,
    smoke: Smoke | None = None,
    share: Path | None = None,
    policy: Sequence[str] = (),
) -> Path:
    """Prepare data and run folder, run the engine, and return the run folder.

    Args:
        study: What runs.
        engine: What carries the messages.
        data_root: Folder that the sites' folders lie in.
        out: Run folder; None for the default.
        resume: Go on with a run that has begun.
        jobs: Sites at work at the same time, in place of the study's [compute] jobs: it changes no
            result, so a run may go on with another number.
        smoke: Where the study is a smoke run.
        share: Folder with runs whose equal trainings may be taken.
        policy: `SITE=FILE`: hospitals' own policies.

    Raises:
        InputError: Before anything runs or is written, with every problem of every site.
        StudyStopped: If the study cannot go on; why has been said.
    """
    prepare.check_parts(study)
    prepare.check_weights(study)
    policies = site_policies(policy, study)
    folder = out or Path("runs") / f"{study.name}-{study.digest[:8]}"
    stand = prepare.look_at(folder, study, resume)
    if stand is prepare.Stand.FINISHED:
        if not (folder / "report.html").exists():
            write_report(folder)
        say(f"already finished: {folder / 'report.html'}")
        return folder
    plan = make_plan(study)
    sites = with_policies(_prepare(study, plan, folder, data_root, smoke, stand), policies)
    listed = folder / "sites" / "sites.json"
    write_sites(listed, sites)
    identities = write_identities(study, plan, folder, {site.name: site for site in sites})
    if share is not None:
        for key, sibling in take_equal(study, plan, folder, identities, share).items():
            say(f"{key}: taken from {sibling}, an equal training")
    if smoke is not None:
        say(f"untrained: {study.untrained}")
    jobs = _jobs(study, plan, jobs or study.compute.jobs)
    logs = {site.name: _size(site.folder / "errors.log") for site in sites}
    try:
        with Live(folder, study):
            if engine is Engine.inprocess:
                from scripts.engines import inprocess

                inprocess.run(folder, listed, jobs)
            else:
                from scripts.engines import ray

                ray.run(folder, listed, study, jobs)
    except StudyStopped as error:
        _explain(error, sites, logs)
        raise
    say(f"report: {folder / 'report.html'}")
    return folder


def _prepare(
    study: Study,
    plan: Plan,
    folder: Path,
    data_root: Path,
    smoke: Smoke | None,
    stand: prepare.Stand,
) -> list[SiteSettings]:
    """Look at all data first, in a scratch folder; then make the run folder."""
    steps = Steps()
    beside = folder.parent
    with prepare.nothing_left_behind(beside):
        prepare.check_disk(study, plan, beside)
        phantom_root = prepare.make_phantom(study, beside, steps)

        def settings_in(place: Path) -> list[SiteSettings]:
            data = smoke_data(smoke, data_root, phantom_root, place) if smoke else None
            return prepare.site_settings(
                study, place, beside / "cache", data_root, phantom_root, data
            )

        with prepare.scratch() as scratch:
            looked_at = settings_in(scratch)
            prepare.check_sites(study, looked_at, steps)
            prepare.check_unchanged(folder, looked_at)
        if stand is prepare.Stand.NEW:
            prepare.make_folder(folder, study)
        return settings_in(folder)


def _jobs(study: Study, plan: Plan, wanted: int) -> int:
    """The jobs that are wanted, or as many as the memory estimate allows."""
    jobs = fitting_jobs(study, plan, memory_for(study), wanted)
    if jobs < wanted:
        say(
            f"{jobs} of {wanted} jobs: more would pass the memory that is free "
            "(--dry-run shows the estimate)"
        )
    return jobs


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _explain(error: StudyStopped, sites: list[SiteSettings], before: dict[str, int]) -> None:
    """Say why a study stopped; in a simulation the sites' own words are at hand too."""
    say(f"stopped: {error}")
    for site in sites:
        path = site.folder / "errors.log"
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(before[site.name])
            words = file.read().decode("utf-8", errors="replace").splitlines()
        if words:
            say(f"{site.name} says, in its own log {path}:")
            for line in words[-WORDS_SHOWN:]:
                say(f"  {line}")
    say("what was done is kept; the same command with --resume goes on from there")
