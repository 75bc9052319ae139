"""Trains the text encoder and the U-Net together on latents rendered in advance."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from demo import parallel
from demo.data import NAMES, load_latents, load_scenes
from demo.model_config import build_scheduler, build_text_encoder, build_unet, build_vae, save_pipeline
from demo.scenes import training_caption
from demo.styles import HELD_OUT_STYLES
from demo.training import Budget, Training
from demo.vocabulary import write_tokenizer

CAPTION_DROPOUT = 0.1
# Cap on the weight of the x0 error, which is SNR + 1 under a plain v-prediction loss: little noise is cheap to learn
# and invisible. After min-SNR (Hang et al. 2023), but full at high noise, where colours are decided.
WEIGHT_CAP = 6.0


class DenoisingLoss(torch.nn.Module):
    """The v-prediction loss of captions and noisy latents."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        self.register_buffer("alphas_cumprod", build_scheduler().alphas_cumprod.clone(), persistent=False)

    def forward(
        self, latents: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Loss of a batch, a scalar.

        Args:
            latents: (batch, channels, height, width), float32.
            tokens: (batch, length), int64.
            noise: the shape of `latents`.
            timesteps: (batch,), int64 in [0, 1000).
        """
        alpha_bar = self.alphas_cumprod[timesteps][:, None, None, None]
        noisy_latents = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        states = self.text_encoder(tokens).last_hidden_state
        prediction = self.unet(noisy_latents, timesteps, states).sample.float()
        # SNR + 1 = 1 / (1 - alpha_bar).
        weight = (WEIGHT_CAP * (1 - alpha_bar)).clamp(max=1).flatten()
        return (weight * (prediction - target).square().mean((1, 2, 3))).mean()


def draw_timesteps(rng: np.random.Generator, count: int) -> torch.Tensor:
    """One timestep from each of `count` equal parts of the schedule: less variance than independent draws."""
    return torch.from_numpy((1000 * (np.arange(count) + rng.random(count)) / count).astype(np.int64))


def batches(
    latents: np.ndarray, labels: np.ndarray, tokenizer: CLIPTokenizer, batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless random batches: latents, tokens, noise and timesteps, as `DenoisingLoss` takes them.

    Captions are drawn anew each time, one in ten is empty.
    """
    rng = np.random.default_rng(seed)
    while True:
        picked = rng.integers(len(latents), size=batch_size)
        clean = torch.from_numpy(latents[picked]).float()
        captions = [draw_caption(rng, labels[i]) for i in picked]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        yield clean, tokens, noise, draw_timesteps(rng, batch_size)


def draw_caption(rng: np.random.Generator, labels: np.ndarray) -> str:
    """A training caption of a picture with these four labels, or none at all."""
    if rng.random() < CAPTION_DROPOUT:
        return ""
    subject, colour, background, style = (names[i] for names, i in zip(NAMES, labels, strict=True))
    unused = tuple(HELD_OUT_STYLES)
    return training_caption(rng, subject, colour, background, None if style == "photo" else style, unused)


def build_models(args: argparse.Namespace) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModel, UNet2DConditionModel]:
    """The parts of the model: from `args.init` when given, else the trained autoencoder and fresh networks."""
    torch.manual_seed(args.seed)
    tokenizer = write_tokenizer(args.work / f"tokenizer_{parallel.rank()}")
    vae, text_encoder, unet = build_vae(), build_text_encoder(tokenizer), build_unet()
    vae_folder = args.work / "vae" if trains_vae(args) else args.init / "vae"
    vae.load_state_dict(AutoencoderKL.from_pretrained(vae_folder).float().state_dict())
    if args.init is not None:
        start_from(text_encoder, CLIPTextModel.from_pretrained(args.init / "text_encoder"))
        start_from(unet, UNet2DConditionModel.from_pretrained(args.init / "unet"))
    return vae, tokenizer, text_encoder, unet


def trains_vae(args: argparse.Namespace) -> bool:
    """Whether the run makes its autoencoder itself; else it is that of `args.init`."""
    return args.init is None or args.vae_init is not None


def start_from(module: torch.nn.Module, given: torch.nn.Module) -> None:
    """Copies a trained module's weights; layers of another width, next to latents of another kind, start afresh."""
    own = module.state_dict()
    fitting = {name: value for name, value in given.float().state_dict().items() if value.shape == own[name].shape}
    module.load_state_dict(fitting, strict=False)


def train_unet(args: argparse.Namespace) -> None:
    """Trains until `args.max_steps` or `args.max_minutes`; every checkpoint also writes the model to `args.out`."""
    device = parallel.device()
    vae, tokenizer, text_encoder, unet = build_models(args)
    scenes = load_scenes(args.work, args.scenes, args.processes)
    latents = load_latents(args.work, scenes, vae.to(device), device)
    if device.type == "cpu":
        # The plain formula has the faster backward pass on a CPU.
        unet.set_attn_processor(AttnProcessor())
    model = DenoisingLoss(text_encoder, unet).to(device)
    budget = Budget(args.max_steps, args.max_minutes, args.lr, warm_up=200, ema=args.ema, save_every=args.save_every)
    training = Training("unet", args.work, model, budget)
    # Each process, and each resumed run, draws other batches.
    seed = args.seed + 1000 * parallel.rank() + training.step
    source = batches(latents, scenes.labels, tokenizer, args.batch, seed)
    training.run(source, lambda: write_model(args.out, training, vae, tokenizer))


def write_model(folder: Path, training: Training, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> None:
    """Writes the averaged weights as a diffusers folder; the networks in training stay as they are."""
    parts = build_vae(), build_text_encoder(tokenizer), build_unet()
    with training.average.applied():
        sources = vae, training.module.text_encoder, training.module.unet
        for part, source in zip(parts, sources, strict=True):
            part.load_state_dict(source.state_dict())
    save_pipeline(folder, parts[0], parts[1], tokenizer, parts[2])
