from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.models.projection import ProjectionHead
from common.models.transunet import TransUNet, TransUNetConfig, load_official
from tests.common.models import published

SIZES: dict[str, Any] = {
    "layers": (2, 1, 2),
    "width": 32,
    "hidden": 48,
    "blocks": 2,
    "mlp": 72,
    "decoder": (24, 16, 12, 8),
    "head_channels": 40,
    "classes": 2,
}


def config_of(side: int) -> TransUNetConfig:
    return TransUNetConfig(
        image_size=side,
        resnet_layers=SIZES["layers"],
        width=0.5,
        hidden=48,
        blocks=2,
        heads=3,
        mlp=72,
        decoder=SIZES["decoder"],
        head_channels=40,
        classes=2,
    )


def parameters(config: TransUNetConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in TransUNet(config).parameters())


def published_state(side: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return published.random_state(published.shapes(side=side, **SIZES), seed)


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (80, 1), (96, 3)])
def test_the_published_network_is_reproduced(side: int, channels: int) -> None:
    state = published_state(side)
    model = TransUNet(config_of(side))
    load_official(model, state)
    model.eval()
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = published.forward(state, images, heads=3)
        torch.testing.assert_close(model(images), logits, atol=1e-5, rtol=1e-5)
        # In double precision rounding hides nothing, not even an epsilon of another layer.
        model, images = model.double(), images.double()
        state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
        tokens, skips = published.encode(state, images, heads=3)
        encoded = model.encode(images)
        torch.testing.assert_close(encoded.tokens_BND, tokens, atol=1e-11, rtol=0)
        for ours, theirs in zip(encoded.skips, skips, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
        logits = published.forward(state, images, heads=3)
        torch.testing.assert_close(model(images), logits, atol=1e-11, rtol=0)


def test_full_size_has_the_published_names_shapes_and_number() -> None:
    wanted = published.shapes(
        side=224,
        layers=(3, 4, 9),
        width=64,
        hidden=768,
        blocks=12,
        mlp=3072,
        decoder=(256, 128, 64, 16),
        head_channels=512,
        classes=1,
    )
    state = {name: torch.empty(shape, device="meta") for name, shape in wanted.items()}
    with torch.device("meta"):
        model = TransUNet(TransUNetConfig())
        load_official(model, state)
        assert model(torch.empty(1, 1, 224, 224)).shape == (1, 1, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == 105_275_921


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 2.9), ("small", 5.0), ("r50-vit-b16", 105.3)]
)
def test_presets_have_their_size(name: Any, millions: float) -> None:
    assert round(parameters(TransUNetConfig.preset(name)) / 1e6, 1) == millions
    assert parameters(TransUNetConfig(geometry="timm")) == 105_275_921


@settings(max_examples=5, deadline=None)
@given(side=st.integers(2, 14).map(lambda n: 16 * n), classes=st.integers(1, 3))
def test_every_tiling_side_works(side: int, classes: int) -> None:
    with torch.device("meta"):
        tiny = TransUNetConfig.preset("tiny", image_size=side, classes=classes)
        for config in (tiny, replace(tiny, geometry="timm")):
            model = TransUNet(config)
            images = torch.empty(2, 1, side, side)
            tokens_BND, skips = model.encode(images)
            assert tokens_BND.shape == (2, (side // 16) ** 2, config.hidden)
            assert [skip.shape[-1] for skip in skips] == [side // 8, side // 4, side // 2]
            assert model(images).shape == (2, classes, side, side)
            assert model.feature(images).shape == (2, config.hidden)


def test_the_state_dict_falls_into_encoder_decoder_and_head() -> None:
    with torch.device("meta"):
        model = TransUNet(TransUNetConfig.preset("tiny"))
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "decoder", "head"}
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.encoder.modules())


def test_same_seed_same_weights_and_every_parameter_learns() -> None:
    def built() -> TransUNet:
        torch.manual_seed(3)
        return TransUNet(TransUNetConfig.preset("tiny", image_size=32))

    first, second = built(), built()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    first(torch.rand(2, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in first.parameters())


def test_dropout_sits_after_the_positions_and_in_the_mlp_only() -> None:
    with torch.device("meta"):
        model = TransUNet(TransUNetConfig.preset("tiny"))
    active = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0}
    expected = {f"encoder.blocks.{i}.mlp.drop{k}" for i in range(4) for k in (1, 2)}
    assert active == expected | {"encoder.dropout"}


def test_the_mlp_width_is_exact() -> None:
    with torch.device("meta"):
        for mlp in (91, 97, 103, 109):
            config = TransUNetConfig(hidden=57, heads=3, blocks=1, mlp=mlp)
            assert TransUNet(config).state_dict()["encoder.blocks.0.mlp.fc1.bias"].shape == (mlp,)


def refused(model: TransUNet, state: Mapping[str, torch.Tensor]) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_official(model, dict(state))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "a refused import must not touch the model"
    return str(caught.value)


def test_import_is_strict_and_says_all_at_once() -> None:
    model, state = TransUNet(config_of(32)), published_state(32)
    state["surplus.weight"] = torch.zeros(1)
    state["segmentation_head.0.weight"] = torch.zeros(9, 8, 3, 3)
    del state["transformer.encoder.layer.1.attn.key.weight"]
    said = refused(model, state)
    assert "surplus.weight fits nowhere" in said
    assert "head.weight has shape (9, 8, 3, 3), the model needs (2, 8, 3, 3)" in said
    assert "encoder.blocks.1.attn.qkv.weight is missing" in said


def test_another_side_is_refused_by_the_strict_import() -> None:
    assert "encoder.positions has shape" in refused(TransUNet(config_of(48)), published_state(32))


def test_a_file_for_other_sizes_is_not_listed_to_the_end() -> None:
    said = refused(TransUNet(TransUNetConfig.preset("tiny", image_size=32)), published_state(32))
    assert len(said.splitlines()) == 21
    assert "other sizes" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image_size": 100}, "100 does not tile"),
        ({"image_size": 16}, "at least 32"),
        ({"width": 0.25}, "16 stem channels"),
        ({"heads": 5}, "heads 5 does not divide hidden 768"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"geometry": "jax"}, "'jax'"),
        ({"classes": 0}, "classes 0 must be at least 1"),
        ({"decoder": (8, 8, 8)}, "decoder needs four"),
        ({"resnet_layers": (1, 0, 1)}, "resnet_layers needs three"),
    ],
)
def test_sizes_that_make_no_network(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="model: ") as caught:
        TransUNetConfig(**wrong)
    assert words in str(caught.value)


def test_all_wrong_sizes_are_named_together() -> None:
    with pytest.raises(InputError) as caught:
        TransUNetConfig(image_size=100, heads=5, dropout=2)
    assert len(caught.value.problems) == 3


def test_an_unknown_preset_lists_the_known() -> None:
    unknown: Any = "huge"
    with pytest.raises(InputError, match="tiny, small, r50-vit-b16"):
        TransUNetConfig.preset(unknown)


def test_projection_head_is_linear_relu_linear() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(6, 4)
    x = torch.randn(3, 6)
    w1, b1, w2, b2 = head.parameters()
    expected = (x @ w1.T + b1).clamp(min=0) @ w2.T + b2
    torch.testing.assert_close(head(x), expected)
    assert w1.shape == (6, 6)
    assert ProjectionHead(8)(torch.randn(2, 8)).shape == (2, 128)
