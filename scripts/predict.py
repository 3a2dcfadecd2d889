"""`sonofed predict`: a bundle's masks or classes of pictures, DICOM ultrasound and video."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients.predict.run import Settings
from clients.predict.run import predict as run_predict
from common.plugins import look_in
from scripts.live import console, say


class Runtime(StrEnum):
    """Who runs the network."""

    torch = "torch"
    onnx = "onnx"


class Precision(StrEnum):
    """In which arithmetic."""

    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


class MaskFormat(StrEnum):
    """What masks are written as."""

    png = "png"
    nrrd = "nrrd"


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Of `sonofed export`.")],
    given: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A picture, DICOM ultrasound or video; a folder of them; a folder with index.csv.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for all that is written.")],
    runtime: Annotated[Runtime, typer.Option(help="torch or ONNX Runtime.")] = Runtime.torch,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="int8: ResNet in float32, transformer in int8, half the decoder in bfloat16. "
            "bf16: all of it. Default: int8 for masks with torch on a CPU, else fp32."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; for torch.")] = "cpu",
    masks: Annotated[
        MaskFormat, typer.Option(help="png, or nrrd: .seg.nrrd for 3D Slicer and ITK-SNAP.")
    ] = MaskFormat.png,
    maps: Annotated[
        bool, typer.Option(help="Also probabilities and confidence, as 16-bit PNG.")
    ] = False,
    overlay: Annotated[
        bool | None, typer.Option(help="Draw the outlines. Default: of clips only, as MP4.")
    ] = None,
    draw_flagged: Annotated[
        bool,
        typer.Option(
            help="Say masks or classes of frames unlike all training images too; flagged anyway."
        ),
    ] = False,
    colour: Annotated[bool, typer.Option(help="Take coloured pictures as grey.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Images of your own device, unlabelled: BatchNorm is fitted."
        ),
    ] = None,
    parts: Annotated[
        Path, typer.Option(help="Folder of the study's own code, where the bundle needs any.")
    ] = Path(),
) -> None:
    """Segment or classify everything at INPUT; every mask fits its original to the pixel.

    Writes masks, predictions.csv (areas or probabilities, confidence, flags) and run.json. A frame
    unlike all training images is flagged and gets no mask or class. Exit 1 if a file could not be
    read.
    """
    look_in(parts)
    settings = Settings(
        runtime=runtime.value,
        precision=precision.value if precision else None,
        device=device,
        masks=masks.value,
        maps=maps,
        overlay=overlay,
        draw_flagged=draw_flagged,
        colour=colour,
        calibrate=calibrate,
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
    )  # fmt: skip
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("frames", speed="")

        def tell(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=done, total=total, speed=f"{speed:.1f} frames/s" if speed else ""
            )

        outcome = run_predict(bundle, given, out, settings, tell)
    for words in outcome.warnings:
        say(f"note: {words}")
    for words in outcome.refused:
        say(f"refused: {words}")
    if outcome.others:
        say(f"{outcome.others} files are neither picture nor clip and were left alone")
    if outcome.flagged:
        say(
            f"{outcome.flagged} of {outcome.frames} frames flagged, {outcome.withheld} of them "
            f"without an answer (--draw-flagged gives one): see {out / 'predictions.csv'}"
        )
    say(
        f"{out}: {outcome.frames} frames in {outcome.seconds:.1f} s, "
        f"{outcome.frames_per_second:.1f} a second; bundle {outcome.digest[:16]}"
    )
    if outcome.refused:
        raise typer.Exit(1)
