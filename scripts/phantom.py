"""`sonofed phantom`: draws the synthetic sites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from clients.phantom.probes import PROBES
from clients.phantom.write import generate


class AnatomyName(StrEnum):
    """What is scanned."""

    WRIST = "wrist"
    BREAST = "breast"


def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the sites go: one folder per probe.")],
    anatomy: Annotated[AnatomyName, typer.Option(help="What is scanned.")] = AnatomyName.WRIST,
    probe: Annotated[
        list[str] | None, typer.Option(help=f"A probe; repeat for several: {', '.join(PROBES)}.")
    ] = None,
    patients: Annotated[int, typer.Option(help="Patients per probe.")] = 12,
    sweeps: Annotated[int, typer.Option(help="Videos per patient.")] = 1,
    frames: Annotated[int, typer.Option(help="Frames per video.")] = 8,
    side: Annotated[int, typer.Option(help="Pixels of the square pictures.")] = 224,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes that draw.")] = 1,
) -> None:
    """Draw synthetic ultrasound sites: sweeps with exact masks, different patients per probe."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing", total=None)
        sites = generate(
            folder,
            anatomy=anatomy.value,
            probes=probe or list(PROBES),
            patients=patients,
            sweeps=sweeps,
            frames=frames,
            side=side,
            seed=seed,
            jobs=jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for site in sites.values():
        typer.echo(f"{site / 'index.csv'}")
