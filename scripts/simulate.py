"""`sonofed simulate`: a whole federated study on one machine."""

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clients.settings import SiteSettings
from clients.site import check_batches, open_site
from clients.site_list import write_sites
from common.config.load import load_study
from common.config.study import Study
from common.errors import InputError
from common.own_parts import check_own_parts
from common.plan import make_plan
from common.plugins import look_in
from scripts.live import Live, say
from scripts.phantom.write import generate


class Engine(StrEnum):
    """What carries the messages."""

    inprocess = "inprocess"
    ray = "ray"


def simulate(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study.")],
    engine: Annotated[
        Engine, typer.Option(help="inprocess: one process (or --jobs); ray: Flower's simulation.")
    ] = Engine.inprocess,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="SONOFED_DATA", help="Folder that the sites' folders lie in."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<study>-<digest>.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the study, dotted keys.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Sites at work at the same time.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last finished round.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show what would run: parameters, memory, steps, MB to move.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option(help="One tiny batch a stage; results are marked untrained.")
    ] = False,
) -> None:
    """Run a federated study on one machine, every site with its own data and folder.

    Prints where the report lies. Stopped or killed, the same command with --resume goes on and
    ends with the same weights and results to the last bit.
    """
    overrides = list(override or [])
    if jobs is not None:
        overrides.append(f"compute.jobs={jobs}")
    look_in(study_file.parent)
    study = load_study(study_file, overrides)
    run_study_here(study, engine, data_root or Path("data"), out, resume)


def run_study_here(
    study: Study, engine: Engine, data_root: Path, out: Path | None, resume: bool
) -> Path:
    """Prepare data and run folder, run the engine, and return the run folder.

    Raises:
        InputError: Before anything runs, with every problem of every site.
    """
    check_own_parts(study)
    folder = out or Path("runs") / f"{study.name}-{study.digest[:8]}"
    finished = prepare_folder(folder, study, resume)
    if finished:
        say(f"already finished: {folder / 'report.html'}")
        return folder
    sites = site_settings(study, folder, data_root)
    check_sites(study, sites)
    write_sites(folder / "sites" / "sites.json", sites)
    with Live(folder, study):
        if engine is Engine.inprocess:
            from scripts.engines import inprocess

            inprocess.run(folder, folder / "sites" / "sites.json", study.compute.jobs)
        else:
            from scripts.engines import ray

            ray.run(folder, folder / "sites" / "sites.json", study)
    say(f"report: {folder / 'report.html'}")
    return folder


def prepare_folder(folder: Path, study: Study, resume: bool) -> bool:
    """Make the run folder, or check that an old one is this study's.

    Returns:
        Whether the run is finished already.

    Raises:
        InputError: If the folder holds another study, or this one without `--resume`.
    """
    written = folder / "study.json"
    if written.exists():
        if written.read_text(encoding="utf-8") != study.canonical():
            raise InputError(f"{folder}: holds a run of another study; choose another --out")
        if not resume:
            raise InputError(f"{folder}: holds a run of this study; go on with --resume")
        return (folder / "report.html").exists()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "study.json.partial"
    partial.write_text(study.canonical(), encoding="utf-8")
    partial.replace(written)
    return False


def site_settings(study: Study, folder: Path, data_root: Path) -> list[SiteSettings]:
    """Each site's own settings, its phantom made where it names a probe."""
    phantom_root = make_phantom(study, folder.parent)
    return [
        SiteSettings(
            name=name,
            role=site.role,
            data=site.spec(),
            data_root=phantom_root if site.probe and phantom_root else data_root.resolve(),
            folder=(folder / "sites" / name).resolve(),
            cache=(folder.parent / "cache").resolve(),
        )
        for name, site in study.sites.items()
    ]


def make_phantom(study: Study, beside: Path) -> Path | None:
    """Make the study's synthetic sites once; equal settings share a folder."""
    if study.phantom is None:
        return None
    import hashlib

    probes = sorted({site.probe for site in study.sites.values() if site.probe})
    key = study.phantom.model_dump_json() + ",".join(probes)
    folder = beside / f"phantom-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    settings = study.phantom
    generate(
        folder,
        anatomy=settings.anatomy,
        probes=probes,
        patients=settings.patients,
        sweeps=settings.sweeps,
        frames=settings.frames,
        side=settings.side,
        seed=settings.seed,
    )
    return folder.resolve()


def check_sites(study: Study, sites: list[SiteSettings]) -> None:
    """Open every site's data before anything runs.

    Raises:
        InputError: With the problems of all sites at once.
    """
    problems: list[str] = []
    trainings = list(make_plan(study).trainings.values())
    for site in sites:
        try:
            check_batches(open_site(site, study.for_sites()), site, study, trainings)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
