"""What share of a device's frames a bundle flags: `python -m`, not `bench`.

`python -m scripts.bench.flagged BUNDLE DIR` looks at the images of a manifest as `sonofed predict`
does and prints one row of a Markdown table. `--where` and `--split` pick the images: a device that
was not in the study, or the test images of one that was. The share of those is what flags cost; the
reference statistics were taken of none of them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import torch
import typer

from clients.data.manifest import Row, read_manifest
from clients.data.preprocess import square_image
from clients.data.readers import read_file
from clients.predict.job import WITHHOLDING
from clients.predict.masks import entropy_confidence
from clients.predict.runtimes import TorchRuntime
from common.bundle import files
from common.bundle.ensemble import load_segmentation, read_config
from common.bundle.reference import describe, distance_of, mask_confidence, read_reference
from common.config.data import DataSpec
from common.errors import InputError
from common.metrics import dice
from scripts.bench.faithfulness import reference_of

HEAD = (
    "| images of | images | no mask | grey | feature | confidence | Dice of masks | of withheld |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Shares:
    """What became of the images.

    Attributes:
        images: How many.
        flagged: Share with each flag; `withheld`: without a mask.
        dice_told: Mean Dice of the masks that are written; NaN without references.
        dice_withheld: Of those that are not.
    """

    images: int
    flagged: dict[str, float]
    dice_told: float
    dice_withheld: float

    def line(self, name: str) -> str:
        """A row of the table."""
        told = [f"{100 * value:.1f} %" for value in self.flagged.values()]
        told += ["-" if isnan(d) else f"{d:.3f}" for d in (self.dice_told, self.dice_withheld)]
        return f"| {name} | {self.images} | {' | '.join(told)} |"


def share(bundle: Path, rows: list[Row]) -> Shares:
    """Look at images as `sonofed predict` does.

    Args:
        bundle: A bundle that segments and carries reference statistics.
        rows: The images.

    Raises:
        InputError: If there is nothing to flag by, or an image is not readable.
    """
    config = read_config(bundle)
    known = read_reference(bundle, files.verify(bundle))
    if known is None:
        raise InputError(f"{bundle}: carries no reference statistics")
    runtime = TorchRuntime(load_segmentation(bundle), "fp32")
    counts: Counter[str] = Counter()
    scores: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        square = square_image(read_file(row.image, row.frame), config.model.image_size)
        said = runtime(square)
        sure = mask_confidence(
            said.pred_CSS, entropy_confidence(said.pred_CSS), config.infusion.threshold
        )
        flags = distance_of(describe(square), said.features_D.astype(np.float64), sure, known).flags
        counts.update(flags)
        withheld = any(flag in WITHHOLDING for flag in flags)
        counts["withheld"] += withheld
        reference_CSS = reference_of(row, config)
        if reference_CSS is not None:
            mask = (said.pred_CSS >= config.infusion.threshold)[None]
            scores[withheld].append(float(dice(mask, reference_CSS[None]).mean()))
    flagged = {n: counts[n] / len(rows) for n in ("withheld", "grey", "feature", "confidence")}
    means = {key: fmean(values) if values else nan for key, values in scores.items()}
    return Shares(len(rows), flagged, means[False], means[True])


def chosen(folder: Path, where: list[str], split: Path | None = None, limit: int = 0) -> list[Row]:
    """Rows of a manifest.

    Args:
        folder: Holds `index.csv`.
        where: `COLUMN=PATTERN`, all of which must match.
        split: A site's `split.json`: its test images alone.
        limit: So many, evenly spread; 0: all.

    Raises:
        InputError: If none is left.
    """
    pairs: dict[str, str | tuple[str, ...]] = {}
    for pair in where:
        column, _, pattern = pair.partition("=")
        pairs[column] = pattern
    rows = read_manifest(folder, DataSpec(folder=".", where=pairs))
    if split is not None:
        test = set(json.loads(split.read_text(encoding="utf-8"))["test"])
        rows = [row for row in rows if row.id in test]
    if not rows:
        raise InputError(f"{folder}: no image is left")
    return rows[:: max(1, len(rows) // limit)][:limit] if limit else rows


def main(
    bundle: Annotated[Path, typer.Argument()],
    folder: Annotated[Path, typer.Argument()],
    where: Annotated[list[str] | None, typer.Option(metavar="COLUMN=PATTERN")] = None,
    split: Annotated[Path | None, typer.Option(metavar="SPLIT.json")] = None,
    limit: Annotated[int, typer.Option(min=0)] = 0,
    name: Annotated[str, typer.Option()] = "",
    head: Annotated[bool, typer.Option()] = True,
) -> None:
    """Print the row."""
    torch.set_num_threads(1)
    rows = chosen(folder, where or [], split, limit)
    for words in HEAD if head else ():
        typer.echo(words)
    typer.echo(share(bundle, rows).line(name or folder.name))


if __name__ == "__main__":
    typer.run(main)
