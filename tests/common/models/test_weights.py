from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import ndimage
from timm import create_model
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed  # type: ignore[attr-defined]
from torch import Tensor

from common.errors import InputError
from common.models.layouts import from_timm, resize_positions
from common.models.transunet import TransUNet, TransUNetConfig
from common.models.weights import load_local
from tests.common.models import published
from tests.common.models.test_transunet import SIZES, config_of, published_state

SIDE = 48


def to_npz(state: dict[str, Tensor], heads: int) -> dict[str, np.ndarray[Any, Any]]:
    """The published loader's renaming, run backwards: torch's axes back to JAX's."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    layer, unit = "transformer.encoder.layer.", f"{published.HYBRID}.body."
    for name, tensor in state.items():
        a = tensor.numpy()
        last = {"weight": "scale", "bias": "bias"}.get(name.rsplit(".", 1)[-1], "")
        if name.startswith(unit):
            block, number, part, _ = name.removeprefix(unit).split(".")
            if part.startswith("gn"):
                arrays[f"{block}/{number}/{part}/{last}"] = a.reshape(1, 1, 1, -1)
            else:
                part = "conv_proj" if part == "downsample" else part
                arrays[f"{block}/{number}/{part}/kernel"] = a.transpose(2, 3, 1, 0)
        elif name.startswith(layer):
            number, part = name.removeprefix(layer).rsplit(".", 1)[0].split(".", 1)
            root = f"Transformer/encoderblock_{number}"
            if part.endswith("_norm"):
                norm = "LayerNorm_0" if part == "attention_norm" else "LayerNorm_2"
                arrays[f"{root}/{norm}/{last}"] = a
            elif part.startswith("ffn"):
                dense = f"{root}/MlpBlock_3/Dense_{int(part[-1]) - 1}"
                arrays[f"{dense}/kernel" if last == "scale" else f"{dense}/bias"] = a.T
            else:
                attention = f"{root}/MultiHeadDotProductAttention_1/{part.split('.')[1]}"
                if last == "bias":
                    arrays[f"{attention}/bias"] = a if "out" in part else a.reshape(heads, -1)
                elif "out" in part:
                    arrays[f"{attention}/kernel"] = a.T.reshape(heads, -1, a.shape[0])
                else:
                    arrays[f"{attention}/kernel"] = a.T.reshape(a.shape[1], heads, -1)
        elif name == f"{published.HYBRID}.root.conv.weight":
            arrays["conv_root/kernel"] = a.transpose(2, 3, 1, 0)
        elif name.startswith(f"{published.HYBRID}.root.gn"):
            arrays[f"gn_root/{last}"] = a.reshape(1, 1, 1, -1)
        elif name.startswith("transformer.encoder.encoder_norm"):
            arrays[f"Transformer/encoder_norm/{last}"] = a
        elif name.endswith("patch_embeddings.weight"):
            arrays["embedding/kernel"] = a.transpose(2, 3, 1, 0)
        elif name.endswith("patch_embeddings.bias"):
            arrays["embedding/bias"] = a
        elif name.endswith("position_embeddings"):
            token = np.full((1, 1, a.shape[2]), 9.0, np.float32)
            arrays["Transformer/posembed_input/pos_embedding"] = np.concatenate((token, a), axis=1)
    width = state["transformer.encoder.encoder_norm.weight"].numel()
    arrays["cls"] = np.ones((1, 1, width), np.float32)
    arrays["head/kernel"] = np.ones((width, 5), np.float32)
    return arrays


def fresh_model(side: int = SIDE) -> TransUNet:
    torch.manual_seed(9)
    return TransUNet(config_of(side)).eval()


def test_imagenet_npz_fills_the_encoder_as_the_published_loader_does(tmp_path: Path) -> None:
    state = published_state(SIDE)
    np.savez(tmp_path / "R50+ViT-B_16.npz", allow_pickle=False, **to_npz(state, heads=3))
    model, before = fresh_model(), fresh_model().state_dict()
    report = load_local(model, tmp_path / "R50+ViT-B_16.npz")
    images = torch.rand(2, 1, SIDE, SIDE).double()
    double = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    with torch.no_grad():
        tokens, _ = published.encode(double, images, heads=3)
        ours = model.double().encode(images).tokens_BND
    torch.testing.assert_close(ours, tokens, atol=1e-11, rtol=0)
    assert report.layout == "imagenet21k-npz"
    assert report.unused == ("cls", "head/kernel")
    assert not report.resized
    assert all(name.startswith("encoder.") for name in report.loaded)
    assert all(name.startswith(("decoder.", "head.")) for name in report.fresh)
    assert set(report.loaded) | set(report.fresh) == set(before)
    for name in report.fresh:
        assert torch.equal(model.state_dict()[name].to(before[name].dtype), before[name])
    assert str(report) == (
        f"R50+ViT-B_16.npz: imagenet21k-npz layout, {len(report.loaded)} tensors loaded; "
        "fresh: decoder, head; unused: cls, head/kernel"
    )


def test_full_size_npz_names_all_find_their_place(tmp_path: Path) -> None:
    """At full depth and P1's layers, with one-number-wide widths kept small."""
    sizes = {**SIZES, "layers": (3, 4, 9), "blocks": 12}
    state = published.random_state(published.shapes(side=32, **sizes), seed=2)
    np.savez(tmp_path / "a.npz", allow_pickle=False, **to_npz(state, heads=3))
    config = TransUNetConfig(
        image_size=32,
        width=0.5,
        hidden=48,
        heads=3,
        mlp=72,
        decoder=SIZES["decoder"],
        head_channels=40,
    )
    report = load_local(TransUNet(config), tmp_path / "a.npz")
    assert report.unused == ("cls", "head/kernel")


def hybrid(side: int) -> VisionTransformer:
    """timm's hybrid, built as its vit_base_r50_s16_224 is, small and without a class token."""
    resnet = ResNetV2(
        layers=[2, 1, 2],
        channels=(128, 256, 512),
        num_classes=0,
        global_pool="",
        stem_chs=32,
        stem_type="same",
        preact=False,
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )
    embed: Any = partial(HybridEmbed, backbone=resnet)
    return VisionTransformer(
        img_size=side,
        patch_size=1,
        embed_layer=embed,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=1.5,
        class_token=False,
        global_pool="",
        num_classes=0,
        fc_norm=False,
    ).eval()


def timm_config(side: int) -> TransUNetConfig:
    sizes = {**config_of(side).__dict__, "geometry": "timm"}
    return TransUNetConfig(**sizes)


@pytest.mark.parametrize("side", [48, 64])
def test_timm_weights_in_timm_geometry_give_timm_tokens(tmp_path: Path, side: int) -> None:
    torch.manual_seed(4)
    theirs = hybrid(side)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    model = TransUNet(timm_config(side)).eval()
    report = load_local(model, tmp_path / "timm.safetensors")
    assert report.layout == "timm"
    assert report.unused == ()
    images = torch.rand(2, 3, side, side).double()
    with torch.no_grad():
        expected = theirs.double().forward_features(images)
        ours = model.double().encode(images).tokens_BND
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def test_timm_registered_names_all_find_their_place() -> None:
    with torch.device("meta"):
        renamed = from_timm(create_model("vit_base_r50_s16_224", num_classes=7).state_dict())
        own = TransUNet(TransUNetConfig(geometry="timm")).state_dict()
    encoder = {n: t.shape for n, t in own.items() if n.startswith("encoder.")}
    assert {n: t.shape for n, t in renamed.items() if n.startswith("encoder.")} == encoder
    assert sorted(set(renamed) - set(encoder)) == ["cls_token", "head.bias", "head.weight"]


def test_timm_weights_need_timm_geometry(tmp_path: Path) -> None:
    save_file(hybrid(SIDE).state_dict(), tmp_path / "timm.safetensors")
    with pytest.raises(InputError, match=r'need model\.geometry = "timm"'):
        load_local(fresh_model(), tmp_path / "timm.safetensors")


@pytest.mark.parametrize("wrapped", ["plain", "parallel", "checkpoint", "safetensors"])
def test_published_state_dicts_in_their_wrappings(tmp_path: Path, wrapped: str) -> None:
    state = published_state(SIDE)
    path = tmp_path / ("t.safetensors" if wrapped == "safetensors" else "t.pth")
    if wrapped == "safetensors":
        save_file(state, path)
    elif wrapped == "checkpoint":
        torch.save({"epoch": 3, "model": state}, path)
    else:
        prefix = "module." if wrapped == "parallel" else ""
        torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    model = fresh_model()
    report = load_local(model, path)
    assert report.layout == "transunet"
    assert report.fresh == ()
    images = torch.rand(1, 1, SIDE, SIDE)
    with torch.no_grad():
        expected = published.forward(state, images, heads=3)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_another_number_of_classes_leaves_the_head_fresh(tmp_path: Path) -> None:
    state = published.random_state(published.shapes(side=SIDE, **{**SIZES, "classes": 9}), seed=0)
    torch.save(state, tmp_path / "synapse.pth")
    report = load_local(fresh_model(), tmp_path / "synapse.pth")
    assert report.fresh == ("head.bias", "head.weight")


def test_our_own_weights_come_back(tmp_path: Path) -> None:
    model = fresh_model()
    other = TransUNet(config_of(SIDE))
    save_file(other.state_dict(), tmp_path / "own.safetensors")
    assert load_local(model, tmp_path / "own.safetensors").fresh == ()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_positions_are_stretched_to_another_side(tmp_path: Path) -> None:
    state = published_state(64)
    torch.save(state, tmp_path / "t.pth")
    model = fresh_model(96)
    report = load_local(model, tmp_path / "t.pth")
    assert report.resized
    old = state["transformer.embeddings.position_embeddings"].reshape(4, 4, 48).numpy()
    expected = ndimage.zoom(old, (6 / 4, 6 / 4, 1), order=1).reshape(1, 36, 48)
    torch.testing.assert_close(model.encoder.positions.data, torch.from_numpy(expected))


@settings(max_examples=20, deadline=None)
@given(old=st.integers(2, 9), new=st.integers(2, 9), slope=st.floats(-3, 3))
def test_stretching_keeps_planes_and_corners(old: int, new: int, slope: float) -> None:
    along = torch.linspace(0, 1, old, dtype=torch.float64)
    plane = (along[:, None] + slope * along[None, :]).reshape(1, old * old, 1)
    wanted = torch.linspace(0, 1, new, dtype=torch.float64)
    expected = (wanted[:, None] + slope * wanted[None, :]).reshape(1, new * new, 1)
    torch.testing.assert_close(resize_positions(plane, new), expected, atol=1e-9, rtol=0)


def broken(folder: Path, kind: str) -> Path:
    if kind == "missing":
        return folder / "nowhere.npz"
    if kind == "ending":
        path = folder / "weights.onnx"
        path.write_bytes(b"x")
        return path
    if kind == "pickle":
        path = folder / "evil.pth"
        torch.save({"model": Path("/")}, path)
        return path
    if kind == "list":
        path = folder / "list.pth"
        torch.save([torch.zeros(1)], path)
        return path
    if kind == "unknown":
        path = folder / "resnet.safetensors"
        save_file({"layer1.0.conv1.weight": torch.zeros(1)}, path)
        return path
    path = folder / f"empty.{kind}"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "there is no such file"),
        ("ending", "the ending must be"),
        ("pickle", "not a plain state dict"),
        ("list", "holds no state dict"),
        ("unknown", "no known layout (it holds layer1.0.conv1.weight"),
        ("npz", "unreadable"),
        ("safetensors", "unreadable"),
        ("pth", "unreadable"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        load_local(fresh_model(), path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_of_other_sizes_leaves_the_model_alone(tmp_path: Path) -> None:
    torch.save(published_state(SIDE), tmp_path / "t.pth")
    model = TransUNet(TransUNetConfig.preset("tiny", image_size=SIDE))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="other sizes"):
        load_local(model, tmp_path / "t.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
