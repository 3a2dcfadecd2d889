import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.models.projection import ProjectionHead
from common.models.transunet import TransUNet, TransUNetConfig
from common.objectives.gradient_cache import cached_contrastive_step
from common.objectives.mt_nxent import mt_nxent


def contrast(z_KD: Tensor) -> Tensor:
    z_a, z_b = z_KD.chunk(2)
    video, frame = torch.arange(len(z_a)) // 3, 9 * torch.arange(len(z_a))
    return mt_nxent(z_a, z_b, video, frame, min_frame_gap=15, temperature=0.5)


def one_graph(encode: nn.Module, views: Tensor, micro_batch: int) -> Tensor:
    """The same micro-batches, all their graphs kept: what caching must equal."""
    loss = contrast(torch.cat([encode(piece) for piece in torch.split(views, micro_batch)]))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


class Contrastive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = TransUNet(TransUNetConfig.preset("tiny", image_size=32))
        self.projection = ProjectionHead(192, 16)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.projection(self.backbone.feature(images))
        return features


def test_gradient_of_the_model_equals_one_graph_with_dropout() -> None:
    torch.manual_seed(0)
    model = Contrastive().train()
    views = torch.rand(12, 1, 32, 32)
    torch.manual_seed(5)
    expected_loss = one_graph(model, views, 5)
    expected, after = gradients(model), torch.get_rng_state()
    model.zero_grad()
    torch.manual_seed(5)
    loss = cached_contrastive_step(model, views, contrast, micro_batch=5)
    torch.testing.assert_close(loss, expected_loss)
    assert not loss.requires_grad
    assert torch.equal(torch.get_rng_state(), after)
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in ours.items():
        scale = max(float(gradient.norm()), 1e-3 * largest)
        assert float((gradient - expected[name]).norm()) <= 1e-4 * scale, name


def test_without_the_same_dropout_it_would_not_be_equal() -> None:
    torch.manual_seed(0)
    model = Contrastive().train()
    views = torch.rand(6, 1, 32, 32)
    torch.manual_seed(5)
    first = cached_contrastive_step(model, views, contrast, micro_batch=2)
    torch.manual_seed(6)
    assert cached_contrastive_step(model, views, contrast, micro_batch=2) != first


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(1, 6), micro_batch=st.integers(1, 13), seed=st.integers(0, 100))
def test_any_micro_batch_gives_the_gradient(pairs: int, micro_batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    encode = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3)).double()
    views = torch.randn(2 * pairs, 4, dtype=torch.float64)
    torch.manual_seed(seed)
    expected_loss = one_graph(encode, views, micro_batch)
    expected = gradients(encode)
    encode.zero_grad()
    torch.manual_seed(seed)
    loss = cached_contrastive_step(encode, views, contrast, micro_batch=micro_batch)
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in gradients(encode).items():
        torch.testing.assert_close(gradient, expected[name])


def test_without_dropout_the_micro_batch_does_not_matter_and_gradients_add_up() -> None:
    torch.manual_seed(0)
    encode = nn.Linear(4, 3).double()
    views = torch.randn(8, 4, dtype=torch.float64)
    cached_contrastive_step(encode, views, contrast, micro_batch=8)
    once = {name: gradient.clone() for name, gradient in gradients(encode).items()}
    cached_contrastive_step(encode, views, contrast, micro_batch=3)
    for name, gradient in gradients(encode).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_two_tensors_of_views_follow_one_another() -> None:
    torch.manual_seed(0)
    encode = nn.Linear(4, 3).double()
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    joined = cached_contrastive_step(encode, torch.cat((a, b)), contrast, micro_batch=2)
    expected = gradients(encode)["weight"].clone()
    encode.zero_grad()
    torch.testing.assert_close(
        cached_contrastive_step(encode, [a, b], contrast, micro_batch=2), joined
    )
    torch.testing.assert_close(gradients(encode)["weight"], expected)


@pytest.mark.parametrize("micro_batch", [2, 6])
def test_a_loss_with_parameters_learns_too(micro_batch: int) -> None:
    torch.manual_seed(0)
    encode, head = nn.Linear(4, 3), nn.Linear(3, 2)
    cached_contrastive_step(
        encode, torch.randn(6, 4), lambda z: contrast(head(z)), micro_batch=micro_batch
    )
    assert len(gradients(encode)) == 2
    assert gradients(head)["weight"].any()
