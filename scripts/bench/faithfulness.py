"""How far a bundle's masks move in cheaper arithmetic, on real frames: `python -m`, not `bench`.

`python -m scripts.bench.faithfulness BUNDLE DIR` predicts the images of a manifest in every
precision and runtime and prints a Markdown table: the largest difference of a branch's probability,
the mask pixels that moved against float32, and the mean Dice where the manifest names masks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from clients.data.manifest import Row, read_manifest
from clients.data.preprocess import square_image, square_mask
from clients.data.readers import read_file, read_mask
from clients.predict.precision import Precision
from clients.predict.runtimes import Answer, OnnxRuntime, Runtime, TorchRuntime
from common.bundle import files
from common.bundle.ensemble import EnsembleConfig, load_segmentation, read_config
from common.config.data import DataSpec
from common.metrics import dice

WAYS: tuple[tuple[str, Precision], ...] = (
    ("torch", "fp32"), ("torch", "int8"), ("torch", "bf16"), ("onnx", "fp32"), ("onnx", "int8"),
)  # fmt: skip


@dataclass
class Sums:
    """What is added up over the frames, for one way."""

    largest: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        """A row of the table."""
        overlap = f"{np.mean(self.dice):.4f}" if self.dice else "-"
        return (
            f"| {name} | {max(self.largest):.4f} | {100 * np.mean(self.moved):.4f} % | {overlap} |"
        )


def measure(bundle: Path, folder: Path, limit: int = 0) -> list[str]:
    """The table's lines.

    Args:
        bundle: A bundle's folder. Without its ONNX file that runtime is left out.
        folder: Holds `index.csv`.
        limit: So many images, evenly spread; 0: all.
    """
    config = read_config(bundle)
    rows = read_manifest(folder, DataSpec(folder="."))
    chosen = rows[:: max(1, len(rows) // limit)][:limit] if limit else rows
    side, threshold = config.model.image_size, config.infusion.threshold
    sums = {name: (runtime, Sums()) for name, runtime in _runtimes(bundle).items()}
    for row in chosen:
        square = square_image(read_file(row.image, row.frame), side)
        reference = reference_of(row, config)
        exact: Answer | None = None
        for runtime, sum_ in sums.values():
            said = runtime(square)
            exact = said if exact is None else exact
            apart = np.abs(said.branches_MCSS - exact.branches_MCSS)
            moved = (said.pred_CSS >= threshold) != (exact.pred_CSS >= threshold)
            sum_.largest.append(float(apart.max()))
            sum_.moved.append(float(moved.mean()))
            if reference is not None:
                mask = (said.pred_CSS >= threshold)[None]
                sum_.dice.append(float(dice(mask, reference[None]).mean()))
    head = [
        f"{len(chosen)} images of {folder.name}, {config.study} ({config.arm}), {side} px",
        "",
        "| way | largest difference of a branch | mask pixels moved | mean Dice |",
        "|---|---|---|---|",
    ]
    return [*head, *(sum_.line(name) for name, (_, sum_) in sums.items())]


def _runtimes(bundle: Path) -> dict[str, Runtime]:
    make: dict[str, Callable[[Precision], Runtime]] = {
        "torch": lambda precision: TorchRuntime(load_segmentation(bundle), precision),
        "onnx": lambda precision: OnnxRuntime(bundle, precision, threads=1),
    }
    there = [way for way in WAYS if way[0] == "torch" or (bundle / files.ONNX).exists()]
    return {f"{name} {precision}": make[name](precision) for name, precision in there}


def reference_of(row: Row, config: EnsembleConfig) -> NDArray[np.bool_] | None:
    """A row's mask on the bundle's square, (C, S, S); None without one."""
    side, classes = config.model.image_size, len(config.classes)
    if row.mask is None:
        return None
    values = read_mask(read_file, row.mask, row.frame, classes=classes)
    plane = square_mask(values, side, classes)
    return np.stack([plane == k for k in range(1, max(classes, 1) + 1)])


def main(
    bundle: Annotated[Path, typer.Argument()],
    folder: Annotated[Path, typer.Argument()],
    limit: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    for line in measure(bundle, folder, limit):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
