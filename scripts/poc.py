"""`sonofed poc`: a whole consortium rehearsed on one machine."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from common import ledger_check
from common.config.load import load_study, parse_study
from common.config.study import Study
from common.errors import InputError
from common.plugins import look_in
from common.signing import public_path, read_public_key
from scripts.consortium import rehearsal
from scripts.consortium.receipts import receipts_of
from scripts.consortium.rehearsal import Rehearsal
from scripts.live import Live, say
from scripts.progress import clock
from scripts.simulate import Engine, run_study_here
from scripts.study.seen import seen
from server.context import StudyStopped
from server.receipts import KEY_FILE, RECEIPTS_FILE

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.toml"
PROBES = ("linear_pocket", "convex", "linear_hd")
MOST_SITES = 20

app = typer.Typer(
    no_args_is_help=True,
    help="A whole consortium rehearsed on one machine, for practice and tests.",
)
Folder = Annotated[Path, typer.Option(metavar="DIR", help="Where all of it lies.")]
StudyFile = Annotated[
    Path | None,
    typer.Argument(metavar="[STUDY.toml]", help="Its sites are made; default: the demo's."),
]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the study; repeatable.")
]


@app.command("up")
def up(
    study_file: StudyFile = None,
    sites: Annotated[int, typer.Option(min=2, max=MOST_SITES, help="Of the demo.")] = 3,
    folder: Folder = Path("poc"),
    override: Override = None,
) -> None:
    """Start a consortium on this machine: nginx, SuperLink, a gate and a SuperNode for every site.

    Everything is real but the distance: TLS, an authority, client certificates, node keys, gates
    with policies and ledgers, SuperNodes in empty networks. Synthetic images, if the study says so.
    """
    study = _study(study_file, sites, override)
    began = time.monotonic()
    made = Rehearsal(folder, study)
    if any(made.status().values()):
        raise InputError(f"{folder}: is up already; `sonofed poc status`, `sonofed poc down`")
    made.up(detached=True)
    say(f"up in {clock(time.monotonic() - began)}: {len(made.sites)} sites at {made.front_address}")
    at = made.place.root
    path = study_file or at / "study.toml"
    say(f"next: sonofed study submit {path} --consortium {at}")
    say(f"then: sonofed poc down --folder {folder}")


@app.command("status")
def status(folder: Folder = Path("poc")) -> None:
    """Say what runs. Exit code 1 if something should and does not."""
    told = _listed(folder)
    bad = False
    for name, keeper in told.items():
        if keeper is None:
            say(f"{name:<16} down")
            continue
        for service, about in keeper["services"].items():
            running = about["pid"] is not None
            bad |= not running
            words = f"process {about['pid']}" if running else f"DOWN {about['trouble']}"
            again = f", started again {about['restarts']} times" if about["restarts"] else ""
            say(f"{name:<16} {service:<10} {words} since {about['started']}{again}")
        if keeper.get("open_network"):
            say(f"{name:<16} OPEN NETWORK: its training is not shut in")
    if bad or (any(told.values()) and not all(told.values())):
        raise typer.Exit(1)


@app.command("down")
def down(
    folder: Folder = Path("poc"),
    remove: Annotated[bool, typer.Option("--remove", help="Take its folder away too.")] = False,
) -> None:
    """Stop everything; nothing is left running."""
    told = _listed(folder)
    Rehearsal.of(folder).down()
    say("down" if any(told.values()) else "nothing was running")
    if remove:
        shutil.rmtree(folder)


@app.command("run")
def run(
    study_file: StudyFile = None,
    folder: Folder = Path("poc"),
    override: Override = None,
    compare: Annotated[
        bool,
        typer.Option(help="Simulate the study too; weights and results must be the same bits."),
    ] = True,
) -> None:
    """All of it at once: up, the study from end to end, every ledger verified, down.

    Exit code 1 if the study does not finish, a ledger is not sound, or a bit differs from what
    `sonofed simulate` gives.
    """
    study = _study(study_file, 3, override)
    began = time.monotonic()
    made = Rehearsal(folder, study)
    made.prepare()
    try:
        with made:
            say(f"up after {clock(time.monotonic() - began)}, at {made.front_address}")
            out, number = made.submit(resume=True)
            with Live(out, study, lambda: seen(made.place)):
                made.wait(out, number)
    except StudyStopped as error:
        say(f"stopped: {error}")
        for site in made.sites.values():
            for line in site.errors().splitlines()[-5:]:
                say(f"  {site.name}: {line}")
        raise typer.Exit(1) from None
    say(f"report: {out / 'report.html'}")
    say(f"the consortium took {clock(time.monotonic() - began)}")
    unsound = [name for name in made.sites if not _verify(made, name, out)]
    if compare:
        unsound += [] if _compare(made, study, out) else ["simulation"]
    if unsound:
        raise typer.Exit(1)


def _study(study_file: Path | None, sites: int, override: list[str] | None) -> Study:
    look_in((study_file or DEMO).parent)
    study = load_study(study_file or DEMO, override or [])
    if study_file is not None or sites == len(study.sites):
        return study
    tables: dict[str, Any] = json.loads(study.canonical())
    names = list(tables["sites"])
    told = {name: tables["sites"][name] for name in names[:sites]}
    for place in range(len(names), sites):
        target = {**tables["sites"][names[1]], "probe": PROBES[place % len(PROBES)]}
        told[f"site{place + 1}"] = target
    return parse_study({**tables, "sites": told}, f"the demo with {sites} sites")


def _listed(folder: Path) -> dict[str, Any]:
    if not (folder / rehearsal.CENTER).exists():
        raise InputError(f"{folder}: holds no rehearsal; `sonofed poc up` makes one")
    return Rehearsal.of(folder).status()


def _verify(made: Rehearsal, name: str, out: Path) -> bool:
    """One site's ledger, against its own key and the center's receipts."""
    site = made.sites[name]
    verdict = ledger_check.verify(
        site.ledger,
        read_public_key(public_path(site.gate / "ledger.key")),
        [*{*receipts_of(made.place), out / RECEIPTS_FILE}],
        read_public_key(public_path(out / KEY_FILE)),
    )
    words = verdict.problem or f"sound, {verdict.lines} lines"
    say(f"ledger of {name}: {words}")
    return verdict.problem is None


def _compare(made: Rehearsal, study: Study, out: Path) -> bool:
    """Simulate the same study in one process, and hold every bit against it."""
    began = time.monotonic()
    data = made.data_root
    other = run_study_here(study, Engine.inprocess, data, made.folder / "simulated", resume=True)
    say(f"the simulation took {clock(time.monotonic() - began)}")
    differing = rehearsal.differences(out, other)
    for line in differing:
        say(f"DIFFERS: {line}")
    if not differing:
        say("weights, ensemble and results are those of the simulation, to the last bit")
    return not differing
