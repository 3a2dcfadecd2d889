"""`sonofed sweep`: one study over seeds and settings, each cell a run of its own."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from common.config.load import load_study
from common.config.study import Study
from common.errors import InputError
from common.plugins import look_in
from scripts import prepare
from scripts.live import Steps, say
from scripts.progress import clock
from scripts.run_folders import status_of

POLL_S = 0.5
WORDS_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a sweep."""

    name: str
    overrides: tuple[str, ...]
    study: Study
    folder: Path

    @property
    def log(self) -> Path:
        """What the run's command said."""
        return self.folder.with_name(f"{self.folder.name}.log")


def sweep(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study.")],
    seeds: Annotated[
        str, typer.Option(help="Seeds, such as 0-4 or 0,1,7; at least 3 before a claim.")
    ] = "0-2",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="key=value,value: every value with every seed; repeatable, then all combinations."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Runs at the same time, one thread each; beside [compute] jobs."),
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep. Default: runs/STUDY-sweep-DIGEST.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="SONOFED_DATA", help="Folder that the sites' folders lie in."),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for every run; repeatable.")
    ] = None,
) -> None:
    """Run a study over seeds and a grid of settings.

    The same command goes on where it was: finished runs are skipped, killed ones resumed. The
    runs share the phantom and the image cache, and equal trainings: what a grid's key does not
    touch is trained once a seed. `sonofed compare` reads the folder.
    """
    look_in(study_file.parent)
    cells, folder = plan_sweep(study_file, seeds, grid or [], override or [], out)
    folder.mkdir(parents=True, exist_ok=True)
    _make_phantoms(cells, folder)
    try:
        failed = run_cells(study_file, cells, jobs, data_root, folder)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from each run's last finished round")
        raise typer.Exit(130) from None
    done = len(cells) - len(failed)
    say(f"{done} of {len(cells)} runs are finished; compare them: sonofed compare {folder}")
    if failed:
        say(f"failed: {len(failed)}; the same command tries them again")
        for cell in failed:
            say(f"  {cell.name}: {_last_words(cell)}")
        raise typer.Exit(1)


def plan_sweep(
    study_file: Path,
    seeds: str,
    grid: Sequence[str],
    overrides: Sequence[str],
    out: Path | None,
) -> tuple[list[Cell], Path]:
    """All cells of a sweep, seeds running fastest, and its folder.

    Seeds first: runs at work at the same time then have no training in common, and what they
    have in common with a later setting is there when it comes.

    Raises:
        InputError: With the problems of all cells, each once; nothing has been written.
    """
    numbers = parse_seeds(seeds)
    axes = [parse_axis(text) for text in grid]
    doubled = {key for key, _ in axes if [k for k, _ in axes].count(key) > 1}
    if doubled or "seed" in {key for key, _ in axes}:
        raise InputError("--grid: name each key once; seeds go into --seeds")
    base = load_study(study_file, [*overrides, "seed=0"])
    digest = hashlib.sha256(base.canonical().encode()).hexdigest()[:8]
    folder = out or Path("runs") / f"{base.name}-sweep-{digest}"
    cells: list[Cell] = []
    problems: list[str] = []
    for values in itertools.product(*(values for _, values in axes)):
        settings = [f"{key}={value}" for (key, _), value in zip(axes, values, strict=True)]
        for seed in numbers:
            chosen = (*overrides, *settings, f"seed={seed}")
            name = _file_name("_".join([*settings, f"seed={seed}"]))
            try:
                study = load_study(study_file, chosen)
                cell = Cell(name, chosen, study, folder / name)
                prepare.look_at(cell.folder, study, resume=True)
            except InputError as error:
                problems += error.problems
                continue
            cells.append(cell)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return cells, folder


def parse_seeds(text: str) -> list[int]:
    """`0-2,7` -> [0, 1, 2, 7].

    Raises:
        InputError: If it is not that.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise InputError(f"--seeds {text}: write them as 0-4 or 0,1,7")
        first, last = int(low), int(high) if dash else int(low)
        if last < first:
            raise InputError(f"--seeds {text}: {part.strip()} runs backwards")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_axis(text: str) -> tuple[str, list[str]]:
    """`contrastive.min_frame_gap=0,15` -> the key and its values; commas in brackets do not part.

    Raises:
        InputError: If it is not that.
    """
    key, equals, rest = text.partition("=")
    values, depth, quoted = [""], 0, False
    for letter in rest:
        if letter == '"':
            quoted = not quoted
        depth += (letter in "[{") - (letter in "]}") if not quoted else 0
        if letter == "," and depth == 0 and not quoted:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not key.strip() or not equals or not all(values):
        raise InputError(f"--grid {text}: write it as key=value,value")
    return key.strip(), list(dict.fromkeys(values))


def run_cells(
    study_file: Path, cells: Sequence[Cell], jobs: int, data_root: Path | None, folder: Path
) -> list[Cell]:
    """Run the cells that are not finished, `jobs` at a time; a cell's trouble stops no other.

    Returns:
        The cells that failed.
    """
    waiting = deque(cell for cell in cells if not _finished(cell))
    if len(waiting) < len(cells):
        say(f"{len(cells) - len(waiting)} of {len(cells)} runs are finished already")
    running: dict[Cell, tuple[subprocess.Popen[bytes], float]] = {}
    failed: list[Cell] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                say(f"{cell.name}: begins")
                running[cell] = _start(study_file, cell, data_root, folder), time.monotonic()
            time.sleep(POLL_S)
            for cell, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[cell]
                took = clock(time.monotonic() - began)
                if process.returncode == 0 and _finished(cell):
                    say(f"{cell.name}: finished in {took}")
                else:
                    failed.append(cell)
                    say(f"{cell.name}: failed after {took}: {_last_words(cell)}")
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return sorted(failed, key=list(cells).index)


def _start(
    study_file: Path, cell: Cell, data_root: Path | None, folder: Path
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scripts.cli", "simulate", str(study_file)]
    for override in cell.overrides:
        command += ["--set", override]
    command += ["--out", str(cell.folder), "--share", str(folder), "--resume"]
    if data_root is not None:
        command += ["--data-root", str(data_root)]
    with cell.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _finished(cell: Cell) -> bool:
    return (cell.folder / "results.json").exists() and (cell.folder / "report.html").exists()


def _last_words(cell: Cell) -> str:
    """What the run's command said at its end, and where the run stands."""
    lines = cell.log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = " / ".join(line.strip() for line in lines[-WORDS_SHOWN:]) or "it said nothing"
    if (cell.folder / "study.json").exists():
        told += f" (at {status_of(cell.folder).place})"
    return f"{told}; see {cell.log}"


def _make_phantoms(cells: Iterable[Cell], folder: Path) -> None:
    """Draw every phantom before the first run, so that no two runs draw the same at once."""
    for cell in cells:
        if not _finished(cell):
            prepare.make_phantom(cell.study, folder, Steps())


def _file_name(text: str) -> str:
    """A folder's name from settings: what no file system minds, and never too long."""
    plain = "".join(c if c.isalnum() or c in "._=-" else "-" for c in text)
    if plain == text and len(plain) <= 120:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
