import ast
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import common.models.classifier as module
from common.errors import InputError
from common.models.branches import shared_state
from common.models.classifier import Classifier, load_classifier_weights, share_backbone

ARCHITECTURES = ("mobilenetv3_small_050", "shufflenet_v2_x0_5", "resnet10t", "vit_tiny_patch16_224")
"""Convolutional with layers between pooling and head, torchvision's, plain, built for one size."""


def made(architecture: str, classes: int = 2, side: int = 32, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(architecture, classes, side).eval()


def images(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_features_and_width(architecture: str) -> None:
    network = made(architecture, classes=3)
    with torch.inference_mode():
        logits = network(images())
        features = network.features(images())
        # The library's own forward over the grey image in all three channels.
        expected = network.network(images().repeat(1, 3, 1, 1))
        again = network.head(features)
    assert logits.shape == (3, 3)
    assert features.shape == (3, network.width)
    assert torch.allclose(logits, expected, atol=1e-6)
    assert torch.allclose(again, logits, atol=1e-6)
    assert sorted(name.rpartition(".")[2] for name in network.head_names) == ["bias", "weight"]
    assert all(network.state_dict()[name].shape[0] == 3 for name in network.head_names)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_classes_there_are_features_only(architecture: str) -> None:
    torch.manual_seed(0)
    bare = Classifier(architecture, 0, 32).eval()
    whole = made(architecture)
    assert not bare.head_names
    share_backbone(bare, shared_state(whole))
    with torch.inference_mode():
        assert torch.equal(bare(images()), whole.features(images()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sharing_leaves_the_last_layer(architecture: str) -> None:
    source, target = made(architecture, classes=3, seed=1), made(architecture, classes=2)
    before = {name: target.state_dict()[name].clone() for name in target.head_names}
    share_backbone(target, shared_state(source))
    assert all(torch.equal(target.state_dict()[name], t) for name, t in before.items())
    with torch.inference_mode():
        assert torch.equal(target.features(images()), source.features(images()))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "efficientnet_lite0"])
def test_training_starts_undecided(architecture: str) -> None:
    """Two classes of a thousand's design: the first loss is about ln 2, not three."""
    network = made(architecture, side=64).train()
    with torch.no_grad():
        logits = network(images(32, side=64))
    loss = nn.functional.cross_entropy(logits, torch.arange(32) % 2)
    assert float(loss) == pytest.approx(0.693, abs=0.2)


def test_on_the_meta_device_it_costs_nothing() -> None:
    with torch.device("meta"):
        for architecture in (*ARCHITECTURES, "densenet169"):
            network = Classifier(architecture, 2, 96)
            assert all(tensor.is_meta for tensor in network.state_dict().values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnt50", "did you mean 'resnet50"),
        ("shufflenet_v2_x1", "did you mean 'shufflenet_v2_x1_"),
        ("qqqqqqqqqqqq", "timm has no such model"),
        ("resnet50.no_such_tag", "no_such_tag"),
    ],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Classifier(name, 2, 32)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_local_weights(tmp_path: Path, ending: str) -> None:
    """ImageNet's thousand classes are left out, two are taken."""
    torch.manual_seed(5)
    for classes in (1000, 2):
        published: Any = timm.create_model("resnet10t", num_classes=classes).eval()
        path = tmp_path / f"{classes}{ending}"
        if ending == ".pth":
            torch.save({"state_dict": published.state_dict()}, path)
        else:
            save_file(published.state_dict(), path)
        network = made("resnet10t")
        before = network.state_dict()["network.fc.weight"].clone()
        load_classifier_weights(network, path)
        with torch.inference_mode():
            rgb = images().repeat(1, 3, 1, 1)
            pooled = published.forward_head(published.forward_features(rgb), pre_logits=True)
            assert torch.equal(network.features(images()), pooled)
        taken = not torch.equal(network.state_dict()["network.fc.weight"], before)
        assert taken == (classes == 2)


def test_torchvisions_own_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    published = models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save(published.state_dict(), tmp_path / "shuffle.pth")
    network = made("shufflenet_v2_x0_5")
    load_classifier_weights(network, tmp_path / "shuffle.pth")
    published.fc = nn.Identity()
    with torch.inference_mode():
        assert torch.equal(network.features(images()), published(images().repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_efficientnet_pytorchs_layout(tmp_path: Path, name: str) -> None:
    """Its modules come in timm's order: a network's own tensors under its names, in that order."""
    torch.manual_seed(5)
    published: Any = timm.create_model(name, num_classes=7).eval()
    names = ["_conv_stem", "_bn0"]
    for number, block in enumerate(b for stage in published.blocks for b in stage):
        own = ["_expand_conv", "_bn0"] if hasattr(block, "conv_pwl") else []
        own += ["_depthwise_conv", "_bn1"]
        own += ["_se_reduce", "_se_expand"] if name == "efficientnet_b0" else []
        names += [f"_blocks.{number}.{part}" for part in [*own, "_project_conv", "_bn2"]]
    names += ["_conv_head", "_bn1", "_fc"]
    modules = [(n, dict(m.state_dict())) for n, m in published.named_modules() if _has_own(m)]
    theirs = {
        f"{new}.{leaf}": tensor
        for new, (_, state) in zip(names, modules, strict=True)
        for leaf, tensor in state.items()
    }
    torch.save(theirs, tmp_path / "theirs.pth")
    network = made(name)
    load_classifier_weights(network, tmp_path / "theirs.pth")
    with torch.inference_mode():
        rgb = images().repeat(1, 3, 1, 1)
        pooled = published.forward_head(published.forward_features(rgb), pre_logits=True)
        assert torch.equal(network.features(images()), pooled)


def _has_own(module: nn.Module) -> bool:
    """Whether a module has tensors itself, not only in its parts."""
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


def test_wrong_weights_are_refused_and_change_nothing(tmp_path: Path) -> None:
    network = made("resnet10t")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match="there is no such file"):
        load_classifier_weights(network, tmp_path / "absent.pth")
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"not those of resnet10t: .* and \d+ more"):
        load_classifier_weights(network, tmp_path / "other.safetensors")
    assert all(torch.equal(network.state_dict()[name], t) for name, t in before.items())


def test_of_torchvision_only_the_models_are_imported() -> None:
    """The one exception to the wall: nothing that opens an image."""
    tree = ast.parse(Path(module.__file__).read_text())
    found = [
        (name.module, [alias.name for alias in name.names])
        for name in ast.walk(tree)
        if isinstance(name, ast.ImportFrom) and (name.module or "").startswith("torchvision")
    ]
    assert found == [("torchvision", ["models"])]
    plain = [
        alias.name
        for name in ast.walk(tree)
        if isinstance(name, ast.Import)
        for alias in name.names
    ]
    assert not [name for name in plain if name.startswith("torchvision")]
