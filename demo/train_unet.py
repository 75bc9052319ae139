"""Trains the text encoder and the U-Net together on latents rendered in advance."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPTextModel, CLIPTokenizer

from demo import parallel
from demo.data import NAMES, Scenes, load_latents
from demo.far_styles import FAR_STYLES
from demo.model_config import SHAPES, Shape, build_scheduler, build_text_encoder, build_unet, build_vae, save_pipeline
from demo.scenes import training_caption
from demo.style_family import caption_words
from demo.styles import HELD_OUT_STYLES
from demo.train_vae import load_pools, trains_vae
from demo.training import Budget, Training
from demo.vocabulary import write_tokenizer

FAMILY_SHARE = 0.6
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


@dataclass(frozen=True)
class Pool:
    """Latents (count, channels, height, width) of pictures, and what the pictures show."""

    latents: np.ndarray
    scenes: Scenes


class Batches(IterableDataset):
    """Endless random batches: latents, tokens, noise and timesteps, as `DenoisingLoss` takes them.

    Captions are drawn anew each time, one in ten is empty.

    Args:
        pools: by kind: "scenes" and "family".
        tokenizer: of the captions.
        batch_size: latents in a batch, `FAMILY_SHARE` of them in styles of the family.
        seed: of every choice; workers that run side by side add their number.
    """

    def __init__(self, pools: dict[str, Pool], tokenizer: CLIPTokenizer, batch_size: int, seed: int) -> None:
        self.pools, self.tokenizer, self.batch_size, self.seed = pools, tokenizer, batch_size, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        while True:
            yield self._batch(rng)

    def _batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        family = round(self.batch_size * FAMILY_SHARE)
        clean, captions = [], []
        for kind, count in (("scenes", self.batch_size - family), ("family", family)):
            pool = self.pools[kind]
            picked = rng.integers(len(pool.latents), size=count)
            clean.append(pool.latents[picked])
            captions += [draw_caption(rng, pool.scenes.labels[i], pool.scenes.words[i]) for i in picked]
        # Shuffled, as the timesteps that belong to the places rise from the first to the last.
        order = rng.permutation(self.batch_size)
        latents = torch.from_numpy(np.concatenate(clean)[order]).float()
        texts = [captions[i] for i in order]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        return latents, tokens, noise, draw_timesteps(rng, self.batch_size)


def draw_caption(rng: np.random.Generator, labels: np.ndarray, words: Sequence[str]) -> str:
    """A training caption of a picture with these labels and style words, or none at all."""
    if rng.random() < CAPTION_DROPOUT:
        return ""
    subject, colour, background = (names[i] for names, i in zip(NAMES[:3], labels[:3], strict=True))
    style = " ".join(caption_words(rng, tuple(words))) if words else None
    return training_caption(rng, subject, colour, background, style, (*HELD_OUT_STYLES, *FAR_STYLES))


def build_models(args: argparse.Namespace) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModel, UNet2DConditionModel]:
    """The parts of the model: from `args.init` when given, else the trained autoencoder and fresh networks."""
    torch.manual_seed(args.seed)
    tokenizer = write_tokenizer(args.work / f"tokenizer_{parallel.rank()}")
    shape = SHAPES[args.size]
    vae, text_encoder, unet = build_vae(shape), build_text_encoder(tokenizer), build_unet(shape)
    vae_folder = args.work / "vae" if trains_vae(args) else args.init / "vae"
    vae.load_state_dict(AutoencoderKL.from_pretrained(vae_folder).float().state_dict())
    if args.init is not None:
        given = CLIPTextModel.from_pretrained(args.init / "text_encoder")
        start_from(text_encoder, given)
        start_words(text_encoder, tokenizer, given, CLIPTokenizer.from_pretrained(args.init / "tokenizer"))
        start_from(unet, UNet2DConditionModel.from_pretrained(args.init / "unet"))
    return vae, tokenizer, text_encoder, unet


def start_from(module: torch.nn.Module, given: torch.nn.Module) -> None:
    """Copies a trained module's weights; layers of another width, next to latents of another kind, start afresh."""
    own = module.state_dict()
    fitting = {name: value for name, value in given.float().state_dict().items() if value.shape == own[name].shape}
    module.load_state_dict(fitting, strict=False)


@torch.no_grad()
def start_words(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, given: CLIPTextModel, given_tokenizer: CLIPTokenizer
) -> None:
    """Copies the embeddings of the tokens that both vocabularies have, wherever they stand in them."""
    own, known = tokenizer.get_vocab(), given_tokenizer.get_vocab()
    shared = [token for token in own if token in known]
    target, source = (model.get_input_embeddings().weight for model in (text_encoder, given))
    target[[own[token] for token in shared]] = source[[known[token] for token in shared]].float()


def train_unet(args: argparse.Namespace) -> None:
    """Trains until `args.max_steps` or `args.max_minutes`; every checkpoint also writes the model to `args.out`."""
    device = parallel.device()
    vae, tokenizer, text_encoder, unet = build_models(args)
    vae = vae.to(device)
    scenes = {kind: pool for kind, pool in load_pools(args).items() if kind != "textures"}
    pools = {kind: Pool(load_latents(args.work, pool, vae, device), pool) for kind, pool in scenes.items()}
    if device.type == "cpu":
        # The plain formula has the faster backward pass on a CPU.
        unet.set_attn_processor(AttnProcessor())
    model = DenoisingLoss(text_encoder, unet).to(device, memory_format=torch.channels_last)
    budget = Budget(args.max_steps, args.max_minutes, args.lr, warm_up=200, ema=args.ema, save_every=args.save_every)
    training = Training("unet", args.work, model, budget)
    # Each process, and each resumed run, draws other batches.
    source = Batches(pools, tokenizer, args.batch, args.seed + 1000 * parallel.rank() + training.step)
    workers = args.processes if device.type == "cuda" else 0
    loader = DataLoader(source, batch_size=None, num_workers=workers, pin_memory=workers > 0)
    training.run(iter(loader), lambda: write_model(args.out, training, vae, tokenizer, SHAPES[args.size]))


def write_model(folder: Path, training: Training, vae: AutoencoderKL, tokenizer: CLIPTokenizer, shape: Shape) -> None:
    """Writes the averaged weights as a diffusers folder; the networks in training stay as they are."""
    parts = build_vae(shape), build_text_encoder(tokenizer), build_unet(shape)
    with training.average.applied():
        sources = vae, training.module.text_encoder, training.module.unet
        for part, source in zip(parts, sources, strict=True):
            part.load_state_dict(source.state_dict())
    save_pipeline(folder, parts[0], parts[1], tokenizer, parts[2])
