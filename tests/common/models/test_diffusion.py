"""The diffusion model: what is trained, what crosses, what steers it; the samplers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config.selection import Diffusion, Reconstruct
from common.errors import InputError
from common.models import diffusion as module
from common.models.diffusion import DiffusionModel, Size, redraw
from common.models.diffusion_schedule import library, sampler_of, training_noise
from common.models.diffusion_text import Prompt, encode_prompt

SIDE = 16


@pytest.fixture(autouse=True)
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "tiny", Size((8, 16), 1))


def model(**changes: Any) -> DiffusionModel:
    torch.manual_seed(0)
    return DiffusionModel(Diffusion(preset="tiny", **changes), SIDE).eval()


def hints(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = (torch.rand((count, SIDE, SIDE), generator=generator) < 0.2).float()
    found[:, SIDE - 4 :] = -1
    return found


def ask(network: DiffusionModel, noisy: Tensor, hints_BHW: Tensor, **keep: bool) -> Tensor:
    count = len(noisy)
    with torch.no_grad():
        said: Tensor = network(
            noisy,
            torch.full((count,), 500),
            hints_BHW,
            torch.full((count,), keep.get("hint", True)),
            torch.full((count,), keep.get("prompt", True)),
        )
    return said


def test_pixels_are_unshuffled_and_come_back() -> None:
    network = model()
    images = torch.rand(3, 1, SIDE, SIDE)
    latents = network.encode(images)
    assert latents.shape == (3, *network.shape) == (3, 4, 8, 8)
    torch.testing.assert_close(network.decode(latents), images)
    assert latents.min() >= -1


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 2.740084), ("small", 5.724788)])
def test_sizes_and_the_meta_device(
    preset: Any, millions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.SIZES, "tiny", Size((32, 64, 96), 1))
    with torch.device("meta"):
        network = DiffusionModel(Diffusion(preset=preset), 64)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1e6 * millions)
    real = DiffusionModel(Diffusion(preset=preset), 64)
    assert list(real.state_dict()) == list(network.state_dict())
    # Everything that crosses is trained: a buffer would be averaged and never learnt.
    assert list(dict(real.named_parameters())) == list(real.state_dict())


def test_every_parameter_that_can_learn_gets_a_gradient_at_the_first_step() -> None:
    network = model().train()
    keep = torch.ones(2, dtype=torch.bool)
    said = network(torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), hints(2), keep, keep)
    said.square().mean().backward()
    still = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # Attention to one token of zeros has nothing to choose.
    assert all(".attn2." in name or ".norm2." in name for name in still), still


def test_hint_and_prompt_steer_unless_they_are_hidden() -> None:
    network = model(text="learned")
    noisy = torch.randn(2, 4, 8, 8)
    one = ask(network, noisy, hints(2))
    assert not torch.allclose(one, ask(network, noisy, hints(2, 1)))
    assert not torch.allclose(one, ask(network, noisy, hints(2), prompt=False))
    hidden = ask(network, noisy, hints(2), hint=False)
    torch.testing.assert_close(hidden, ask(network, noisy, hints(2, 1), hint=False))
    torch.testing.assert_close(hidden, ask(network, noisy, torch.zeros(2, SIDE, SIDE)))


def test_hiding_is_an_images_own() -> None:
    network = model()
    noisy = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        keep, times = torch.tensor([True, False]), torch.full((2,), 500)
        mixed = network(noisy, times, hints(2), keep, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(mixed[:1], ask(network, noisy, hints(2))[:1])
    torch.testing.assert_close(mixed[1:], ask(network, noisy, hints(2), hint=False)[1:])


@pytest.mark.parametrize("betas", ["cosine", "linear"])
@pytest.mark.parametrize("timesteps", [10, 100, 1000])
def test_the_schedule_ends_in_noise(betas: Any, timesteps: int) -> None:
    schedule = training_noise(Diffusion(betas=betas, timesteps=timesteps))
    assert schedule.alphas_cumprod[0] > 0.9 or timesteps == 10
    assert schedule.alphas_cumprod[-1] < 1e-3
    assert (schedule.betas > 0).all()
    assert (schedule.betas < 1).all()


class Oracle(nn.Module):
    """Knows the image: says the v (or epsilon) that belongs to it."""

    def __init__(self, settings: Diffusion, clean: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self.clean = clean
        self.schedule = training_noise(settings)
        self.shape = tuple(clean.shape[1:])
        self.asked: list[int] = []

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, noisy: Tensor, timesteps: Tensor, *_: Tensor) -> Tensor:
        self.asked.append(int(timesteps[0]))
        alpha = self.schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        clean = self.clean[: len(noisy)].repeat(len(noisy) // len(self.clean), 1, 1, 1)
        noise: Tensor = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        if self.settings.prediction == "epsilon":
            return noise
        v: Tensor = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        return v


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("init", ["noise", "sdedit", "ddim_inversion"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_model_that_knows_the_image_draws_it(
    prediction: Any, sampler: Any, init: Any, guidance: float
) -> None:
    clean = torch.rand(2, 1, 8, 8) * 1.6 - 0.8
    oracle = Oracle(Diffusion(preset="tiny", prediction=prediction), clean)
    settings = Reconstruct(sampler=sampler, steps=8, init=init, guidance=guidance)
    drawn = redraw(
        oracle,  # type: ignore[arg-type]
        torch.zeros(2, 8, 8), torch.randn(2, 1, 8, 8), settings, clean,
    )  # fmt: skip
    torch.testing.assert_close(drawn, clean, atol=2e-3, rtol=0)
    if init == "sdedit":
        assert len(oracle.asked) == 5  # .6 of 8 steps, rounded
        assert max(oracle.asked) < 700


def test_ddim_is_the_papers_formula() -> None:
    settings = Diffusion(preset="tiny", betas="linear")
    network, noise = model(betas="linear"), torch.randn(2, 4, 8, 8)
    how = Reconstruct(steps=4)
    alphas = training_noise(settings).alphas_cumprod
    times = [999, 749, 499, 249]
    assert sampler_of(settings, how).timesteps.tolist() == times
    latents = noise
    for now, then in zip(times, [*times[1:], -1], strict=True):
        with torch.no_grad():
            keep = torch.ones(2, dtype=torch.bool)
            v = network(latents, torch.full((2,), now), hints(2), keep, keep)
        a, b = alphas[now], alphas[then] if then >= 0 else torch.tensor(1.0)
        clean = (a.sqrt() * latents - (1 - a).sqrt() * v).clamp(-1, 1)
        epsilon = (latents - a.sqrt() * clean) / (1 - a).sqrt()
        # diffusers keeps v's own epsilon where the image was clipped.
        epsilon = torch.where(clean.abs() == 1, a.sqrt() * v + (1 - a).sqrt() * latents, epsilon)
        latents = b.sqrt() * clean + (1 - b).sqrt() * epsilon
    expected = network.decode(latents) * (hints(2) >= 0).unsqueeze(1)
    torch.testing.assert_close(redraw(network, hints(2), noise, how), expected, atol=1e-5, rtol=0)


def test_padding_stays_black_and_guidance_changes_the_rest() -> None:
    network, noise = model(), torch.randn(2, 4, 8, 8)
    one = redraw(network, hints(2), noise, Reconstruct(steps=3))
    assert one.shape == (2, 1, SIDE, SIDE)
    assert (one[:, :, SIDE - 4 :] == 0).all()
    other = redraw(network, hints(2), noise, Reconstruct(steps=3, guidance=4))
    assert not torch.allclose(one, other)


def stable_diffusion(folder: Path) -> Path:
    """A folder in diffusers' layout with the smallest network."""
    torch.manual_seed(1)
    library().UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=2,
    ).save_pretrained(folder / "unet")  # fmt: skip
    library().AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    return folder


def test_stable_diffusion_trains_and_ships_its_controlnet_alone(tmp_path: Path) -> None:
    folder = stable_diffusion(tmp_path)
    settings = Diffusion(preset="stable-diffusion", weights=str(folder), text="learned")
    with torch.device("meta"):
        planned = DiffusionModel(settings, 64)
    network = DiffusionModel(settings, 64)
    assert list(planned.state_dict()) == list(network.state_dict())
    assert {name.split(".")[0] for name in network.state_dict()} == {"controlnet", "prompt"}
    assert network.frozen is not None
    unet, autoencoder = network.frozen.parts()
    # It starts as a copy of the frozen network's own half.
    own = dict(unet.named_parameters())
    torch.testing.assert_close(
        dict(network.controlnet.named_parameters())["conv_in.weight"], own["conv_in.weight"]
    )
    images = torch.rand(2, 1, 64, 64)
    latents = network.encode(images)
    assert latents.shape == (2, *network.shape) == (2, 4, 8, 8)
    keep = torch.ones(2, dtype=torch.bool)
    said = network(latents, torch.tensor([5, 800]), torch.zeros(2, 64, 64), keep, keep)
    said.square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.controlnet.parameters())
    assert all(p.grad is None for p in (*unet.parameters(), *autoencoder.parameters()))
    drawn = redraw(network.eval(), torch.zeros(2, 64, 64), latents, Reconstruct(steps=2))
    assert drawn.shape == images.shape


def test_stable_diffusion_without_its_folder(tmp_path: Path) -> None:
    settings = Diffusion(preset="stable-diffusion", weights=str(tmp_path / "none"))
    with torch.device("meta"):
        planned = DiffusionModel(settings, 512)
    assert sum(p.numel() for p in planned.parameters()) == pytest.approx(361e6, rel=0.01)
    with pytest.raises(InputError, match="needs a local folder"):
        DiffusionModel(settings, 512)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="unet is unreadable"):
        DiffusionModel(settings, 512)


def test_a_prompt_has_tokens_and_hidden_ones_are_zeros() -> None:
    keep = torch.tensor([True, False])
    assert not Prompt(Diffusion(), 8)(keep).any()
    assert not list(Prompt(Diffusion(), 8).parameters())
    learned = Prompt(Diffusion(text="learned"), 8)
    tokens = learned(keep)
    torch.testing.assert_close(tokens[0], learned.tokens[0])
    assert not tokens[1].any()
    torch.testing.assert_close(learned(keep), tokens)


def test_encoded_prompts_are_adapted_by_one_trained_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = torch.randn(1, 5, 768)
    calls = []

    def encode(settings: Diffusion) -> Tensor:
        calls.append(settings)
        return encoded

    monkeypatch.setattr("common.models.diffusion_text.encode_prompt", encode)
    prompt = Prompt(Diffusion(text="biomedclip"), 64)
    keep = torch.ones(3, dtype=torch.bool)
    one, other = prompt(keep), prompt(keep)
    assert len(calls) == 1
    assert one.shape == (3, 5, 64)
    torch.testing.assert_close(one, other)  # the authors' code draws a projection each time
    torch.testing.assert_close(one[0], prompt.adapt(encoded)[0])
    assert sorted(prompt.state_dict()) == ["adapt.bias", "adapt.weight"]
    # Stable Diffusion begins with CLIP's own tokens.
    torch.testing.assert_close(Prompt(Diffusion(text="clip"), 768)(keep)[0], encoded[0])


def test_a_text_encoder_without_folder_or_package(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a local folder"):
        encode_prompt(Diffusion(text="clip", text_weights=str(tmp_path / "none")))
    for text in ("clip", "biomedclip"):
        settings = Diffusion(text=text, text_weights=str(tmp_path))
        with pytest.raises(InputError, match=r"needs the package|unreadable|there is no"):
            encode_prompt(settings)


def test_padding_tokens_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = torch.randn(1, 4, 768), torch.tensor([[1, 1, 1, 0]])
    monkeypatch.setattr("common.models.diffusion_text._clip", lambda *_: (tokens, mask))
    found = encode_prompt(Diffusion(text="clip", text_weights=str(tmp_path)))
    torch.testing.assert_close(found, tokens[:, :3])


def test_a_foreign_unet_config_is_read_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    config = {"_class_name": "x", "cross_attention_dim": 32, "block_out_channels": [32] * 4}
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        network = DiffusionModel(
            Diffusion(preset="stable-diffusion", weights=str(tmp_path), text="learned"), 64
        )
    assert network.prompt.tokens.shape == (1, 8, 32)
