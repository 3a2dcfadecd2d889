"""The folded twin says the same, and has nothing left to fold."""

import pytest
import torch
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from torch import nn

from common.bundle.fold import folded
from common.models.classifier import Classifier
from common.models.transunet import Geometry, TransUNet, TransUNetConfig


def network(geometry: Geometry) -> TransUNet:
    torch.manual_seed(0)
    config = TransUNetConfig(
        image_size=48, resnet_layers=(1, 2, 1), width=0.5, hidden=48, blocks=1, heads=3, mlp=96,
        decoder=(16, 8, 8, 8), head_channels=32, geometry=geometry,
    )  # fmt: skip
    made = TransUNet(config)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 3)
                module.weight.normal_(1, 0.3)
                module.bias.normal_()
    return made.eval()


@pytest.mark.parametrize("geometry", ["official", "timm"])
def test_the_same_outputs_to_rounding(geometry: Geometry) -> None:
    made = network(geometry)
    twin = folded(made)
    images = torch.rand(3, 1, 48, 48)
    with torch.inference_mode():
        plain, quick = made(images), twin(images)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(quick, plain, atol=2e-5, rtol=1e-4)


def test_nothing_is_left_to_fold_and_the_original_is_untouched() -> None:
    made = network("official")
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    twin = folded(made)
    kinds = (nn.BatchNorm2d, StdConv2d, StdConv2dSame)
    assert not any(isinstance(module, kinds) for module in twin.modules())
    assert any(isinstance(module, StdConv2d) for module in made.modules())
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_batch_norm_elsewhere_stays() -> None:
    apart = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 1), "norm": nn.BatchNorm2d(2)})
    assert isinstance(folded(apart)["norm"], nn.BatchNorm2d)  # type: ignore[index]
    turned = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1))
    assert isinstance(folded(turned)[0], nn.BatchNorm2d)  # type: ignore[index]


@pytest.mark.parametrize(
    "architecture",
    ["resnet50", "densenet169", "shufflenet_v2_x1_0", "mobilenetv3_large_100", "efficientnet_b0"],
)
def test_classifiers_say_the_same(architecture: str) -> None:
    """timm's norms may carry the activation: such a one must not be folded away."""
    torch.manual_seed(0)
    made = Classifier(architecture, 2, 64)
    made.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not those of the start
            made(torch.rand(4, 1, 64, 64))
    made.eval()
    twin = folded(made)
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(twin(images), made(images), atol=1e-4, rtol=1e-3)
