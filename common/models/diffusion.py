"""The diffusion model with ControlNet on edges (P2 2.1, Eq. 1): diffusers' parts, our loop.

Legend: B images, C channels of what is denoised, h = w its side, H = W = S pixels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.selection import Diffusion, Reconstruct
from common.errors import InputError
from common.models.diffusion_schedule import inverter_of, library, sampler_of
from common.models.diffusion_text import Prompt

__all__ = ["DiffusionModel", "redraw"]


@dataclass(frozen=True)
class Size:
    """Widths of a model that is trained from scratch, at half the picture's resolution."""

    widths: tuple[int, ...]
    layers: int


SIZES = {"tiny": Size((32, 64, 96), 1), "small": Size((32, 64, 128), 2)}
UNSHUFFLE = 2
TEXT_WIDTH = 64
NO_TEXT_WIDTH = 8

STABLE_DIFFUSION_UNET: dict[str, Any] = {"cross_attention_dim": 768, "sample_size": 64}
"""Where Stable Diffusion 1.5 differs from diffusers' default; for dry runs without its weights."""

LATENT_SCALE = 0.18215
LATENT_STEP = 8


class Frozen:
    """Stable Diffusion's own U-Net and autoencoder: read from disk on first use, never trained.

    No module: what is in here is in no state dict and crosses nowhere.

    Args:
        folder: In diffusers' layout, with `unet/` and `vae/`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._parts: tuple[Any, Any] | None = None

    def config(self) -> dict[str, Any]:
        """The U-Net's; Stable Diffusion 1.5's where the folder is not there."""
        path = Path(self.folder) / "unet" / "config.json"
        if self.folder and path.is_file():
            read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return {key: value for key, value in read.items() if not key.startswith("_")}
        return dict(STABLE_DIFFUSION_UNET)

    def shapes(self) -> Any:
        """The U-Net on the meta device."""
        with torch.device("meta"):
            return library().UNet2DConditionModel(**self.config()).requires_grad_(False)

    def parts(self, device: torch.device | str = "cpu") -> tuple[Any, Any]:
        """U-Net and autoencoder.

        Raises:
            InputError: If they cannot be read from the folder.
        """
        if str(device) == "meta":  # shapes alone: nothing is read
            return self.shapes(), None
        if self._parts is None:
            if not self.folder or not Path(self.folder).is_dir():
                raise InputError(
                    'diffusion.preset = "stable-diffusion" needs a local folder with its weights '
                    f"in diffusers' layout: there is none at '{self.folder}'"
                )
            read = []
            for kind, part in (("UNet2DConditionModel", "unet"), ("AutoencoderKL", "vae")):
                try:
                    found = getattr(library(), kind).from_pretrained(
                        self.folder, subfolder=part, local_files_only=True
                    )
                except (OSError, ValueError) as error:
                    raise InputError(
                        f"diffusion weights {self.folder}: {part} is unreadable "
                        f"({str(error)[:120]})"
                    ) from None
                read.append(found.eval().requires_grad_(False))
            self._parts = (read[0], read[1])
        unet, autoencoder = self._parts
        return unet.to(device), autoencoder.to(device)


class DiffusionModel(nn.Module):
    """A denoising U-Net steered by a ControlNet on edges.

    `tiny` (2.7 M) and `small` (5.7 M) work on pixels after PixelUnshuffle(2) and are trained whole;
    the hint stays at full resolution, unshuffled in the same way. `stable-diffusion` works on
    latents; U-Net and autoencoder stay frozen at each site and the ControlNet is trained alone.
    The state dict holds what is trained and nothing else.

    Args:
        settings: The study's table; with preset stable-diffusion `weights` names the local folder.
        side: S, a multiple of 16.

    Raises:
        InputError: If the folder of a stable-diffusion model cannot be read (not on the meta
            device, where none is needed).
    """

    def __init__(self, settings: Diffusion, side: int) -> None:
        super().__init__()
        self.settings = settings
        self.side = side
        self.frozen: Frozen | None = None
        if settings.preset == "stable-diffusion":
            self.frozen = Frozen(settings.weights)
            meta = torch.empty(0).is_meta
            unet = self.frozen.shapes() if meta else self.frozen.parts()[0]
            control = library().ControlNetModel.from_unet(unet, load_weights_from_unet=not meta)
            self.controlnet: nn.Module = control
            width = int(control.config["cross_attention_dim"])
        else:
            width = NO_TEXT_WIDTH if settings.text == "none" else TEXT_WIDTH
            self.unet, self.controlnet = _from_scratch(SIZES[settings.preset], width)
        self.prompt = Prompt(settings, width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of what is denoised."""
        if self.frozen is not None:
            return 4, self.side // LATENT_STEP, self.side // LATENT_STEP
        return UNSHUFFLE**2, self.side // UNSHUFFLE, self.side // UNSHUFFLE

    def encode(self, images_B1HW: Tensor) -> Tensor:
        """(B, 1, S, S) grey in [0, 1] to what is denoised, (B, C, h, w) about [-1, 1]."""
        images = images_B1HW * 2 - 1
        if self.frozen is None:
            return F.pixel_unshuffle(images, UNSHUFFLE)
        _, autoencoder = self.frozen.parts(images.device)
        with torch.no_grad():
            # The mean of the posterior: the same image has the same latents in every epoch.
            latents: Tensor = autoencoder.encode(images.expand(-1, 3, -1, -1)).latent_dist.mode()
        return latents * float(autoencoder.config.get("scaling_factor", LATENT_SCALE))

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Back to (B, 1, S, S) grey in [0, 1]."""
        if self.frozen is None:
            images = F.pixel_shuffle(latents_BChw, UNSHUFFLE)
        else:
            _, autoencoder = self.frozen.parts(latents_BChw.device)
            scale = float(autoencoder.config.get("scaling_factor", LATENT_SCALE))
            with torch.no_grad():
                colour: Tensor = autoencoder.decode(latents_BChw / scale, return_dict=False)[0]
            images = colour.mean(1, keepdim=True)
        return ((images + 1) / 2).clamp(0, 1)

    def forward(
        self,
        noisy_BChw: Tensor,
        timesteps_B: Tensor,
        hints_BHW: Tensor,
        keep_hint_B: Tensor,
        keep_prompt_B: Tensor,
    ) -> Tensor:
        """What the network says of noised images: v or epsilon, as the settings ask.

        Args:
            noisy_BChw: Noised.
            timesteps_B: (B,) int64.
            hints_BHW: (B, S, S): 1 an edge, 0 none, -1 padding.
            keep_hint_B: (B,) bool; False hides an image's hint.
            keep_prompt_B: (B,) bool; False hides an image's prompt.

        Returns:
            (B, C, h, w).
        """
        hints_B1HW = (hints_BHW * keep_hint_B.to(hints_BHW)[:, None, None]).unsqueeze(1)
        tokens_BLD = self.prompt(keep_prompt_B)
        if self.frozen is None:
            unet, hints = self.unet, F.pixel_unshuffle(hints_B1HW, UNSHUFFLE)
        else:
            unet, hints = self.frozen.parts(noisy_BChw.device)[0], hints_B1HW.expand(-1, 3, -1, -1)
        down, middle = self.controlnet(
            noisy_BChw, timesteps_B, tokens_BLD, hints, return_dict=False
        )
        said: Tensor = unet(
            noisy_BChw, timesteps_B, tokens_BLD, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]  # fmt: skip
        return said

    def rehearse(self, images_B1HW: Tensor) -> Tensor:
        """One step's forward pass on any images: what an estimate of memory looks at."""
        count, device = len(images_B1HW), images_B1HW.device
        keep = torch.ones(count, dtype=torch.bool, device=device)
        noisy_BChw = torch.zeros((count, *self.shape), device=device)
        timesteps_B = torch.zeros(count, dtype=torch.long, device=device)
        said: Tensor = self(noisy_BChw, timesteps_B, images_B1HW[:, 0], keep, keep)
        return said


def _from_scratch(size: Size, width: int) -> tuple[nn.Module, nn.Module]:
    """U-Net and ControlNet; text is attended to where attention is cheap, in the middle."""
    channels = UNSHUFFLE**2
    common: dict[str, Any] = {
        "in_channels": channels,
        "down_block_types": ("DownBlock2D",) * len(size.widths),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "block_out_channels": size.widths,
        "layers_per_block": size.layers,
        "norm_num_groups": 8,
        "cross_attention_dim": width,
        "attention_head_dim": 4,
    }
    unet = library().UNet2DConditionModel(
        out_channels=channels, up_block_types=("UpBlock2D",) * len(size.widths), **common
    )
    controlnet = library().ControlNetModel(
        conditioning_channels=channels, conditioning_embedding_out_channels=(16,), **common
    )
    # ControlNet starts its outlets at zero to spare a trained U-Net. Here there is none to spare,
    # and an outlet at zero passes no gradient to what lies behind it.
    outlets = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    for outlet in (*outlets, controlnet.controlnet_cond_embedding.conv_out):
        outlet.reset_parameters()
    return unet, controlnet


@torch.no_grad()
def redraw(
    model: DiffusionModel,
    hints_BHW: Tensor,
    noise_BChw: Tensor,
    settings: Reconstruct,
    images_B1HW: Tensor | None = None,
) -> Tensor:
    """Draw images on edges with a frozen model (P2 Eq. 1, inference).

    Args:
        model: In eval mode.
        hints_BHW: (B, S, S): 1 an edge, 0 none, -1 padding.
        noise_BChw: (B, *model.shape) normal noise.
        settings: Sampler, steps, guidance and start.
        images_B1HW: What is redrawn; needed where `init` is not "noise".

    Returns:
        (B, 1, S, S) float32 in [0, 1]; padding is 0.
    """
    sampler = sampler_of(model.settings, settings)
    timesteps = sampler.timesteps.to(noise_BChw.device)
    if settings.init == "noise":
        latents = noise_BChw * float(sampler.init_noise_sigma)
    else:
        assert images_B1HW is not None
        clean = model.encode(images_B1HW)
        if settings.init == "sdedit":
            skipped = len(timesteps) - max(1, round(settings.strength * len(timesteps)))
            timesteps = timesteps[skipped:]
            latents = sampler.add_noise(clean, noise_BChw, timesteps[:1])
            if hasattr(sampler, "set_begin_index"):
                sampler.set_begin_index(skipped)
        else:
            latents = _invert(model, clean, hints_BHW, settings)
    for timestep in timesteps:
        said = _guided(model, latents, timestep, hints_BHW, settings.guidance)
        latents = sampler.step(said, timestep, latents, return_dict=False)[0]
    drawn: Tensor = model.decode(latents) * (hints_BHW >= 0).unsqueeze(1)
    return drawn


def _guided(
    model: DiffusionModel, latents: Tensor, timestep: Tensor, hints_BHW: Tensor, guidance: float
) -> Tensor:
    """Classifier-free guidance away from what is drawn without edges and prompt."""
    count = len(latents)
    keep = torch.ones(count, dtype=torch.bool, device=latents.device)
    if guidance == 1:
        alone: Tensor = model(latents, timestep.expand(count), hints_BHW, keep, keep).float()
        return alone
    keep = torch.cat([keep, ~keep])
    both = model(
        latents.repeat(2, 1, 1, 1), timestep.expand(2 * count), hints_BHW.repeat(2, 1, 1),
        keep, keep,
    ).float()  # fmt: skip
    steered, free = both.chunk(2)
    guided: Tensor = free + guidance * (steered - free)
    return guided


def _invert(
    model: DiffusionModel, clean: Tensor, hints_BHW: Tensor, settings: Reconstruct
) -> Tensor:
    """The noise that the image itself comes from, by DDIM run backwards without guidance."""
    inverter = inverter_of(model.settings, settings)
    latents = clean
    for timestep in inverter.timesteps.to(clean.device):
        said = _guided(model, latents, timestep, hints_BHW, 1.0)
        latents = inverter.step(said, timestep, latents, return_dict=False)[0]
    return latents
