"""`sonofed study`: a study on a consortium of real machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from clients.gate.approvals import read_bundle
from common.config.load import load_study
from common.config.study import Study
from common.plugins import look_in
from scripts import prepare
from scripts.consortium import rehearsal
from scripts.live import Live, Tail, say, show
from scripts.progress import clock
from scripts.run_folders import find_runs, read_study, status_of
from scripts.standing import Standings, when
from scripts.study import dossier, sites
from scripts.study.bundle import Bundle, build
from scripts.study.place import DEFAULT, Folder, Run, run_folder, run_number
from scripts.study.rehearse import rehearsal_of
from scripts.study.seen import seen
from scripts.study.submit import check, submit, wait
from server.consortium import register as registers
from server.consortium.control import Control
from server.consortium.place import Place, write_file
from server.context import StudyStopped

app = typer.Typer(no_args_is_help=True, help="A study on a consortium of real machines.")
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: in the consortium's runs/.")]
Watch = Annotated[bool, typer.Option(help="Follow the run until it has ended.")]
Code = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="FILE.fab",
        help="The code that was approved; default: this installation's.",
    ),
]
Site = Annotated[str, typer.Argument(metavar="SITE", help="A site of the study.")]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study.")]


@app.command("submit")
def submit_command(
    study_file: StudyFile,
    consortium: Folder = DEFAULT,
    out: Out = None,
    override: Override = None,
    bundle: Code = None,
    watch: Watch = True,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE", help="Begin without this site; `study add-site` lets it in. Repeatable."
        ),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="First on phantom images: no site opens its own, one step a stage."
        ),
    ] = False,
) -> None:
    """Start a study on the consortium's sites, and follow it.

    Every site's gate runs the code only if its bundle was approved there. Exit code 0 if the study
    finished, 1 if it did not. With --rehearse each site draws a phantom and works on that; policies
    count as they are, and a rehearsal that was stopped goes on. A policy that refuses the study
    says so in a rehearsal, before real data are touched; without one, in the round that it refuses.
    """
    _start(
        study_file, consortium, out, override, bundle, watch,
        resume=rehearse, without=without or [], rehearse=rehearse,
    )  # fmt: skip


@app.command("bundle")
def bundle_command(
    out: Annotated[Path, typer.Argument(metavar="FILE.fab", help="Where it goes.")],
) -> None:
    """Write the code of this installation as the bundle that hospitals approve.

    The same installation gives the same bytes; `study submit` sends exactly these.
    """
    bundle = build()
    write_file(out, bundle.data)
    say(f"{out}: {len(bundle.data):,} bytes, SHA-256 {bundle.sha256}")
    say(f"at each hospital: sonofed gate approve {out.name} --folder site/gate")
    say("with --source CHECKOUT it is built again there, and must come out the same")


@app.command("resume")
def resume_command(
    study_file: StudyFile,
    consortium: Folder = DEFAULT,
    out: Out = None,
    override: Override = None,
    bundle: Code = None,
    watch: Watch = True,
) -> None:
    """Go on with a study from its last finished round, whatever ended it."""
    _start(study_file, consortium, out, override, bundle, watch, resume=True)


def _start(
    study_file: Path,
    consortium: Path,
    out: Path | None,
    override: list[str] | None,
    code: Path | None,
    watch: bool,
    *,
    resume: bool,
    without: Sequence[str] = (),
    rehearse: bool = False,
) -> None:
    look_in(study_file.parent)
    study = load_study(study_file, override or [])
    prepare.check_parts(study)
    place = Place(consortium)
    registers.read(place)
    bundle = Bundle(read_bundle(code)) if code else build()
    rehearsal.allow_here(place, study, bundle)
    folder = out or place.runs / f"{study.name}-{study.digest[:8]}"
    if rehearse:
        folder = out or folder.with_name(f"{folder.name}-rehearsal")
        study = rehearsal_of(study)
        say("a rehearsal: every site draws a phantom and opens none of its own images")
    number = submit(place, study, folder, bundle, resume=resume, without=without)
    _tell(study, bundle, folder, number)
    if watch:
        _follow(place, folder, number)


def _tell(study: Study, bundle: Bundle, folder: Path, number: int) -> None:
    say(f"study {study.name} ({study.digest[:12]}...), run {number} in {folder}")
    say(f"code: bundle {bundle.sha256}")


@app.command("watch")
def watch_command(run: Run = None, consortium: Folder = DEFAULT) -> None:
    """Follow a run until it has ended; exit code as with `submit`.

    Of each site it shows when it was seen last, what it answered last, and why it is waited for.
    """
    place = Place(consortium)
    folder = run_folder(place, run)
    _follow(place, folder, run_number(folder))


@app.command("stop")
def stop_command(run: Run = None, consortium: Folder = DEFAULT) -> None:
    """Stop a run. What was done stays; `sonofed study resume` goes on from there."""
    place = Place(consortium)
    folder = run_folder(place, run)
    number = run_number(folder)
    with Control(place, registers.read(place)) as control:
        if control.run(number).over:
            say(f"{folder}: run {number} has ended already")
            return
        control.stop(number)
    say(f"{folder}: run {number} is stopped")


@app.command("drop-site")
def drop_command(
    site: Site,
    run: Run = None,
    consortium: Folder = DEFAULT,
    reason: Annotated[str, typer.Option(help="Why; it stands in the results.")] = "",
) -> None:
    """Have a run go on without a site, from its next round on. What it contributed stays."""
    place = Place(consortium)
    for line in sites.drop(place, run_folder(place, run), site, reason):
        say(line)


@app.command("add-site")
def add_command(site: Site, run: Run = None, consortium: Folder = DEFAULT) -> None:
    """Have a site that was dropped or left out take part, from the next round on."""
    place = Place(consortium)
    for line in sites.add(place, run_folder(place, run), site):
        say(line)


@app.command("list")
def list_command(consortium: Folder = DEFAULT) -> None:
    """List the consortium's runs, and where each stands."""
    place = Place(consortium)
    register = registers.read(place)
    if not place.runs.exists() or not any(place.runs.iterdir()):
        say(f"{place.runs}: no run yet; `sonofed study submit` starts one")
        return
    with Control(place, register) as control:
        states = {state.run_id: state for state in control.runs()}
    table, waits = Table(), []
    for name in ("run", "study", "seed", "state", "place", "age", "Flower's run"):
        table.add_column(name, no_wrap=True)
    for folder in find_runs([place.runs]):
        status = status_of(folder)
        state = states.get(run_number(folder))
        over = state is None or state.over
        # A run that is silent is not a run that has ended: the SuperLink knows.
        at = "finished" if status.state == "finished" else "stopped" if over else "running"
        flower = "unknown" if state is None else f"{state.run_id} {state.status} {state.outcome}"
        table.add_row(
            folder.name, f"{status.name} {status.digest}", str(status.seed), at, status.place,
            clock(status.age_s), flower,
        )  # fmt: skip
        if at == "running":
            waits += _waits(folder)
    show(table)
    for line in waits:
        say(line)


def _waits(folder: Path) -> list[str]:
    """Whom a run waits for, since when, and why."""
    standings = Standings.of(Tail(folder / "metrics.jsonl").lines())
    if not standings.waiting:
        return []
    whom = "; ".join(f"{one.site} {one.waits}" for one in standings.waiting)
    return [f"{folder.name} waits in {standings.stage} since {when(standings.since)}: {whom}"]


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Option(metavar="FILE.zip|DIR", help="A new file, or a new folder.")],
    run: Run = None,
    consortium: Folder = DEFAULT,
    unfinished: Annotated[bool, typer.Option(help="A run that has not finished, too.")] = False,
    weights: Annotated[bool, typer.Option(help="The trained weights too.")] = False,
) -> None:
    """Bundle what an ethics file needs: study, results, receipts, code, hospitals, digests.

    The same run gives the same bytes. No private key and, unless asked for, no weights are in it.
    """
    place = Place(consortium)
    register = registers.read(place)
    files = dossier.gather(run_folder(place, run), register, unfinished=unfinished, weights=weights)
    write = dossier.write_zip if out.suffix == ".zip" else dossier.write_folder
    write(files, out)
    say(f"{out}: {len(files)} files; SHA-256 of {dossier.INDEX}: "
        f"{dossier.sha256_of(files[dossier.INDEX])}")  # fmt: skip


def _follow(place: Place, folder: Path, number: int) -> None:
    study = Study.model_validate(read_study(folder))
    try:
        with Live(folder, study, lambda: seen(place)):
            state = wait(place, number)
        check(folder, state)
    except StudyStopped as error:
        say(f"stopped: {error}")
        say("what was done is kept; `sonofed study resume` goes on from there")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("no longer watched; the run goes on (`sonofed study watch`, `sonofed study stop`)")
        raise typer.Exit(130) from None
    say(f"report: {folder / 'report.html'}")
