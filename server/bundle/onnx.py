"""`models/model.onnx`: the ensemble for ONNX Runtime, with all that `sonofed predict` reads.

Input `image` (B, 1, S, S) float32 in [0, 1]; outputs `pred` (B, C, S, S), `branches`
(B, M, C, S, S) and `features` (B, D); of classifiers (B, C), (B, M, C) and (B, D). Weight
standardisation and BatchNorm are folded before.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from common.bundle.classifiers import Judged
from common.bundle.ensemble import Network, Said
from common.bundle.fold import folded

OPSET = 20
INPUT = "image"
OUTPUTS = ("pred", "branches", "features")


class _Saying(nn.Module):
    """`say` as a forward pass, which is what the exporter traces."""

    def __init__(self, ensemble: Network) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, image: Tensor) -> Said | Judged:
        return self.ensemble.say(image)


def export_onnx(ensemble: Network, side: int, path: Path) -> None:
    """Write the ensemble as ONNX; the batch is free, the side is the model's.

    Args:
        ensemble: With its weights; left as it is.
        side: S.
        path: The file.
    """
    saying = _Saying(cast(Network, folded(ensemble))).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        torch.onnx.export(
            saying,
            (torch.zeros(2, 1, side, side),),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its own internals at length."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
