"""Cheaper arithmetic stays within what the issue allows, on a network that has really trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clients.data.preprocess import square_image
from clients.predict.precision import Precision, in_precision
from common.bundle.ensemble import Ensemble, load_segmentation
from common.config.stages import Infusion
from common.errors import InputError
from tests.bundles import SIDE, Carried


def squares(folder: Path) -> Tensor:
    paths = sorted((folder / "linear_pocket" / "images").iterdir())
    planes = [square_image(np.asarray(Image.open(path)), SIDE) for path in paths]
    return torch.from_numpy(np.stack(planes)).unsqueeze(1).float() / 255


@pytest.mark.parametrize(
    ("precision", "branch", "flips"),
    [("fp32", 1e-4, 0.0), ("int8", 1e-2, 1e-3), ("bf16", 5e-2, 1e-2)],
)
def test_branches_and_masks_hardly_move(
    carried: Carried, precision: Precision, branch: float, flips: float
) -> None:
    ensemble = load_segmentation(carried.bundle)
    cheap = in_precision(ensemble, precision)
    with torch.inference_mode():
        images = squares(carried.data)
        plain, quick = ensemble.say(images), cheap.say(images)
        torch.testing.assert_close(cheap(images), quick.pred_BCSS, atol=1e-3, rtol=0)
    assert (plain.branches_BMCSS - quick.branches_BMCSS).abs().max() <= branch
    moved = (plain.pred_BCSS >= 0.5) != (quick.pred_BCSS >= 0.5)
    assert moved.float().mean() <= flips
    assert quick.pred_BCSS.dtype == torch.float32
    if precision != "fp32":  # it is another arithmetic, not the same under another name
        assert not torch.equal(plain.branches_BMCSS, quick.branches_BMCSS)


def test_the_original_stays_as_it_is(carried: Carried) -> None:
    ensemble = load_segmentation(carried.bundle)
    before = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
    in_precision(ensemble, "int8")
    assert all(torch.equal(before[name], tensor) for name, tensor in ensemble.state_dict().items())


class Own(nn.Module):
    """Somebody's own model: no TransUNet."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, padding=1)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def feature(self, images: Tensor) -> Tensor:
        return self.encoder(images).mean(dim=(2, 3))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.mix(self.encoder(images).movedim(1, -1)).movedim(-1, 1)
        return self.head(mixed.relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_own_model_runs_in_all_of_them(precision: Precision) -> None:
    torch.manual_seed(0)
    ensemble = Ensemble([Own(), Own()], Infusion()).eval()
    images = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        plain, quick = ensemble.say(images), in_precision(ensemble, precision).say(images)
    torch.testing.assert_close(quick.branches_BMCSS, plain.branches_BMCSS, atol=2e-2, rtol=0)
    assert quick.features_BD.shape == (2, 8)


def test_int8_is_for_cpus(carried: Carried) -> None:
    with pytest.raises(InputError, match="runs on a CPU, not on cuda"):
        in_precision(load_segmentation(carried.bundle), "int8", "cuda")
