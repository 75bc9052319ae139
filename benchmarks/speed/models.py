"""U-Nets to time a training step on, and the batch that all ways are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from benchmarks.guidance import SDXL_UNET, draw_weights
from demo.model_config import MODEL_DIR

MODELS = ("embedded", "sd15", "sdxl")
TOKENS = {"embedded": 32, "sd15": 77, "sdxl": 77}
# Stable Diffusion 1.5's autoencoder; the released recipe encodes both pictures in every step.
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """B content rows and then B style rows of one step, and what they are to become.

    Attributes:
        latents, target: (2B, channels, side, side).
        timesteps: (2B,).
        states: (2B, tokens, width).
        added: SDXL's size conditions, else None.
        pictures: (2B, 3, pixels, pixels) in [-1, 1], for the autoencoder.
    """

    latents: Tensor
    target: Tensor
    timesteps: Tensor
    states: Tensor
    added: dict[str, Tensor] | None
    pictures: Tensor

    def rows(self, part: slice) -> Data:
        """Some of the rows."""
        added = None if self.added is None else {name: value[part] for name, value in self.added.items()}
        return Data(
            self.latents[part], self.target[part], self.timesteps[part], self.states[part], added, self.pictures[part]
        )


def load_unet(name: str, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """The embedded model's U-Net, or one of Stable Diffusion's size with random weights, which cost the same."""
    if name == "embedded":
        unet = UNet2DConditionModel.from_pretrained(MODEL_DIR / "unet")
        return unet.to(device, dtype).requires_grad_(False)
    shape = SDXL_UNET if name == "sdxl" else {"cross_attention_dim": 768, "sample_size": 64}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**shape).to(dtype)
    unet = unet.to_empty(device=device)
    draw_weights(unet, torch.Generator(device).manual_seed(0))
    return unet.requires_grad_(False)


def load_vae(name: str, device: str, dtype: torch.dtype) -> AutoencoderKL:
    """The model's autoencoder, with random weights but for the embedded model's."""
    vae = AutoencoderKL.from_pretrained(MODEL_DIR / "vae") if name == "embedded" else AutoencoderKL(**SD_VAE)
    return vae.to(device, dtype).requires_grad_(False)


def make_data(name: str, unet: UNet2DConditionModel, pairs: int, side: int, factor: int) -> Data:
    """Random rows for a batch of `pairs`; `factor`: pixels to a latent."""
    device, dtype, rows = unet.device, unet.dtype, 2 * pairs
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, device=device).to(dtype)

    channels = unet.config.in_channels
    timesteps = torch.randint(0, 1000, (rows,), generator=generator, device=device)
    states = draw(TOKENS[name], unet.config.cross_attention_dim)
    added = {"text_embeds": draw(1280), "time_ids": draw(6)} if name == "sdxl" else None
    pictures = draw(3, side * factor, side * factor).clamp(-1, 1)
    return Data(draw(channels, side, side), draw(channels, side, side), timesteps, states, added, pictures)
