"""Text conditioning of the diffusion model: no text, learned tokens, CLIP or BiomedCLIP.

There is one prompt for all images, so its tokens are worked out once. Encoders are frozen and come
from a local folder; what adapts their tokens to the U-Net is one TRAINED layer that crosses with
the rest (the authors' code draws a new random projection at every forward).

Legend: B images, L tokens, D their width in the U-Net.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config.selection import Diffusion
from common.errors import InputError

LEARNED_TOKENS = 8
ENCODER_WIDTH = 768
"""Of CLIP ViT-L/14's and BiomedCLIP's token sequences."""

BIOMEDCLIP_WEIGHTS = "open_clip_pytorch_model.bin"


class Prompt(nn.Module):
    """The study's prompt as the tokens that the U-Net attends to (P2 Eq. 1, c_p).

    Args:
        settings: `text`, `prompt` and `text_weights` count.
        width: D.
    """

    def __init__(self, settings: Diffusion, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.width = width
        self._encoded: Tensor | None = None
        if settings.text == "learned":
            self.tokens = nn.Parameter(0.02 * torch.randn(1, LEARNED_TOKENS, width))
        elif settings.text != "none":
            self.adapt = nn.Linear(ENCODER_WIDTH, width)
            if width == ENCODER_WIDTH and not self.adapt.weight.is_meta:
                # Stable Diffusion was trained on CLIP's own tokens: begin with them unchanged.
                nn.init.eye_(self.adapt.weight)
                nn.init.zeros_(self.adapt.bias)

    def forward(self, keep_B: Tensor) -> Tensor:
        """Tokens for a batch.

        Args:
            keep_B: (B,) bool; False hides the prompt: its tokens are zeros.

        Returns:
            (B, L, D); without text one token of zeros.

        Raises:
            InputError: If the text encoder's package or folder is not there.
        """
        like = keep_B.to(torch.float32)[:, None, None]
        match self.settings.text:
            case "none":
                return like.new_zeros(len(keep_B), 1, self.width)
            case "learned":
                tokens_1LD: Tensor = self.tokens
            case "clip" | "biomedclip":
                if keep_B.is_meta:  # shapes alone: nothing is read
                    return like.new_empty(len(keep_B), LEARNED_TOKENS, self.width)
                if self._encoded is None:
                    self._encoded = encode_prompt(self.settings)
                tokens_1LD = self.adapt(self._encoded.to(keep_B.device))
        return tokens_1LD * like


def encode_prompt(settings: Diffusion) -> Tensor:
    """The frozen encoder's token sequence, without padding.

    Returns:
        (1, L, 768) float32.

    Raises:
        InputError: If the package or the folder is not there.
    """
    folder = Path(settings.text_weights)
    if not settings.text_weights or not folder.is_dir():
        raise InputError(
            f'diffusion.text = "{settings.text}" needs a local folder with its weights: '
            f"there is none at '{settings.text_weights}'"
        )
    tokens_1LD, mask_1L = (
        _clip(folder, settings.prompt)
        if settings.text == "clip"
        else _biomedclip(folder, settings.prompt)
    )
    # One constant prompt: leaving the padding out is masking it, in every attention alike.
    return tokens_1LD[:, mask_1L[0].bool()].float()


def _clip(folder: Path, prompt: str) -> tuple[Tensor, Tensor]:
    transformers = _package("transformers", "clip")
    tokenizer = _local(transformers.CLIPTokenizer, folder, "tokenizer")
    encoder = _local(transformers.CLIPTextModel, folder, "text_encoder")
    words = tokenizer(prompt, return_tensors="pt", truncation=True)
    with torch.no_grad():
        found = encoder.eval()(**words)
    return found.last_hidden_state, words["attention_mask"]


def _biomedclip(folder: Path, prompt: str) -> tuple[Tensor, Tensor]:
    transformers = _package("transformers", "biomedclip")
    towers = _package("open_clip.hf_model", "biomedclip")
    weights = folder / BIOMEDCLIP_WEIGHTS
    if not weights.is_file():
        raise InputError(f"BiomedCLIP: there is no {BIOMEDCLIP_WEIGHTS} in {folder}")
    tokenizer = _local(transformers.AutoTokenizer, folder, "")
    encoder = towers.HFTextEncoder(
        str(folder), output_dim=512, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp",
        pretrained=False,
    )  # fmt: skip
    state = torch.load(weights, map_location="cpu", weights_only=True)
    text = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    # Newer releases of transformers no longer keep the row numbers among the weights.
    text = {k: v for k, v in text.items() if not k.endswith("position_ids")}
    try:
        encoder.load_state_dict(text)
    except RuntimeError as error:
        raise InputError(f"BiomedCLIP: {weights} does not fit: {str(error)[:200]}") from None
    words = tokenizer(prompt, return_tensors="pt", truncation=True)
    with torch.no_grad():
        found = encoder.eval().transformer(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        )
    return found.last_hidden_state, words["attention_mask"]


def _package(name: str, text: str) -> Any:
    """An optional package, imported by those who ask for it alone."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = {"open_clip.hf_model": "open_clip_torch"}.get(name, name)
        raise InputError(f'diffusion.text = "{text}" needs the package {package}') from None


def _local(kind: Any, folder: Path, part: str) -> Any:
    """`from_pretrained` out of a folder, or out of its subfolder where there is one."""
    place = folder / part if part and (folder / part).is_dir() else folder
    try:
        return kind.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"text weights {place}: unreadable ({str(error)[:120]})") from None
