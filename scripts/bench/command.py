"""`sonofed bench`: what was made faster or smaller, against the plain way, in the same run."""

import json
import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.bench.measure import THREADS, Record, machine

COLUMNS = ("name", "ours", "reference", "unit", "ratio", "peak_rss_mb", "reference_peak_rss_mb")
SHARED = ("machine", "threads", "seed")


class Bench(StrEnum):
    """What there is to measure; one module of this package each."""

    aggregate = "aggregate"
    wire = "wire"
    data = "data"
    step = "step"
    contrastive = "contrastive"
    phantom = "phantom"
    inference = "inference"
    selection = "selection"
    reconstruct = "reconstruct"
    gate = "gate"


class Init(StrEnum):
    """What a reconstruction starts from: `reconstruct.init` of a study."""

    noise = "noise"
    sdedit = "sdedit"
    ddim_inversion = "ddim_inversion"


def bench(
    name: Annotated[Bench, typer.Argument(metavar="NAME", help="What to measure.")],
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Repeats behind each median. Default: the bench's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the input.")] = 0,
    bundle: Annotated[
        Path | None, typer.Option(help="inference: this bundle's weights, not random ones.")
    ] = None,
    init: Annotated[
        Init, typer.Option(help="reconstruct: what both ways start from; the study's by default.")
    ] = Init.sdedit,
    md: Annotated[bool, typer.Option(help="A Markdown table instead of JSON lines.")] = False,
) -> None:
    """Measure ours against the plain way, same run, same input; one JSON line each.

    `ratio` is reference / ours: above 1, ours is that many times quicker. `peak_rss_mb` is the
    largest resident memory of ours, `reference_peak_rss_mb` of the plain way where each had a
    process of its own.
    """
    # What the measuring processes inherit; more threads would only measure who else is running.
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    lines = complete(records_of(name, repeats, seed, bundle, init), seed)
    if md:
        for text in table(lines):
            typer.echo(text)
        return
    for line in lines:
        typer.echo(json.dumps(line))


def records_of(
    name: Bench,
    repeats: int | None,
    seed: int,
    bundle: Path | None = None,
    init: Init = Init.sdedit,
) -> Iterable[Record]:
    """Run one bench; each is imported only when it is asked for."""
    given: dict[str, Any] = {} if repeats is None else {"repeats": repeats}
    match name:
        case Bench.aggregate:
            from scripts.bench import aggregate

            return aggregate.run(seed=seed, **given)
        case Bench.wire:
            from scripts.bench import wire

            return wire.run(seed=seed, **given)
        case Bench.step:
            from scripts.bench import step

            return step.run(seed=seed, **given)
        case Bench.contrastive:
            from scripts.bench import contrastive

            return contrastive.run(seed=seed, **given)
        case Bench.data:
            from scripts.bench import data

            return data.bench(seed=seed)
        case Bench.gate:
            from scripts.bench import gate

            return gate.run(seed=seed, **given)
        case Bench.reconstruct:
            from scripts.bench import reconstruct

            return reconstruct.run(seed=seed, init=init.value, **given)
        case Bench.phantom:
            from scripts.bench import phantom

            return phantom.run(**given)
        case Bench.inference:
            from scripts.bench import inference

            return inference.run(seed=seed, bundle=str(bundle or ""), **given)
        case Bench.selection:
            from scripts.bench import selection

            return selection.run(seed=seed, **given)


def complete(records: Iterable[Record], seed: int) -> Iterator[Record]:
    """Add the ratio, the machine, the threads and the seed; round to what means something."""
    where = machine()
    for record in records:
        full: Record = {
            **record,
            "ratio": float(record["reference"]) / float(record["ours"]),
            "machine": where,
            "threads": record.get("threads", THREADS),
            "seed": seed,
        }
        yield {key: _rounded(value) for key, value in full.items()}


def _rounded(value: str | float) -> str | float:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def table(records: Iterable[Record]) -> Iterator[str]:
    """The records as a Markdown table; what is the same everywhere stands above it, once."""
    lines = list(records)
    yield ", ".join(f"{key}: {lines[0][key]}" for key in SHARED)
    yield ""
    heads = (*COLUMNS, "further")
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for line in lines:
        rest = {key: value for key, value in line.items() if key not in (*COLUMNS, *SHARED)}
        cells = [str(line.get(column, "")) for column in COLUMNS]
        further = ", ".join(f"{key} {value}" for key, value in rest.items())
        yield f"| {' | '.join([*cells, further])} |"
