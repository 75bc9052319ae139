"""Trains the autoencoder on photos, base styles, styles of the family and random textures."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from demo import parallel
from demo.data import HELD_OUT_SEED, Scenes, load_scenes, to_pixels, to_tensor
from demo.far_styles import FAR_STYLES
from demo.model_config import SHAPES, build_vae
from demo.scenes import render_scene
from demo.styles import STYLES
from demo.training import Budget, Training

log = logging.getLogger(__name__)

KL_WEIGHT = 1e-6
EDGE_WEIGHT = 0.5
LATENT_NOISE = 0.02  # deviation, as a part of the latents' own, of the noise that the decoder learns to ignore
# Textures are the hardest: with a quarter of them, halftone lost 1.8 dB in 5,600 pictures.
TEXTURE_SHARE, FAMILY_SHARE = 0.4, 0.35


class ReconstructionLoss(torch.nn.Module):
    """The autoencoder's training loss: L1 on pixels and on their differences, and a KL term that only bounds scale.

    The differences weigh edges, which L1 alone leaves soft.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Loss of a batch of images (batch, height, width, 3) uint8, a scalar."""
        pixels = to_pixels(images)
        posterior = self.vae.encode(pixels).latent_dist
        # A little fixed noise in place of the posterior's own: keeps the latent space smooth at a known scale.
        latents = posterior.mean.float()
        noisy = latents + LATENT_NOISE * latents.detach().std() * torch.randn_like(latents)
        output = self.vae.decode(noisy).sample.float()
        loss = functional.l1_loss(output, pixels)
        for axis in (2, 3):
            loss = loss + EDGE_WEIGHT * functional.l1_loss(output.diff(dim=axis), pixels.diff(dim=axis))
        return loss + KL_WEIGHT * posterior.kl().float().mean()


def batches(pools: dict[str, Scenes], batch_size: int, seed: int) -> Iterator[tuple[torch.Tensor]]:
    """Endless random batches (batch_size, height, width, 3) uint8: photos, styles of the family and textures.

    Args:
        pools: pictures by kind.
        batch_size: pictures in a batch.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    counts = {"family": round(batch_size * FAMILY_SHARE), "textures": round(batch_size * TEXTURE_SHARE)}
    counts["scenes"] = batch_size - sum(counts.values())
    while True:
        picked = {kind: rng.integers(len(pools[kind].images), size=count) for kind, count in counts.items()}
        images = [pools[kind].images[np.sort(chosen)] for kind, chosen in picked.items()]
        yield (torch.from_numpy(np.concatenate(images)),)


@torch.no_grad()
def psnr_by_style(vae: AutoencoderKL, count: int = 32) -> dict[str, float]:
    """Mean PSNR in dB of `count` unseen photos and of each style of them, the held-out ones included."""
    photos = [render_scene(HELD_OUT_SEED + i, size=vae.config.sample_size).image for i in range(count)]
    figures = {}
    for name, style in {"photo": lambda image: image, **STYLES, **FAR_STYLES}.items():
        pixels = to_tensor(np.stack([style(photo) for photo in photos]) * 255).to(vae.device)
        output = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        error = ((output - pixels) / 2).square().mean((1, 2, 3))
        figures[name] = round(float((-10 * error.log10()).mean()), 2)
    return figures


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Folds the latents' mean and deviation into the 1x1 convolutions around them, in place.

    Latents of `pixels` then have mean 0 and deviation 1 in each channel, so the scaling factor is 1.
    """
    means = vae.encode(pixels).latent_dist.mean
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += (post.weight * mean[None, :, None, None]).sum((1, 2, 3))
    post.weight *= std[None, :, None, None]
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / std
    # The second half gives log variances, which the loss leaves to the KL term: a sample of that posterior would be
    # half noise. The posterior becomes the mean with the noise that the decoder knows.
    quant.weight[n:].zero_()
    quant.bias[n:].fill_(2 * math.log(LATENT_NOISE))


@torch.no_grad()
def start_from(vae: AutoencoderKL, folder: Path) -> None:
    """Copies a trained autoencoder's weights into `vae`, which may have more latent channels.

    Those start as random features of the encoder's that the decoder ignores, so that nothing is lost.
    """
    given = AutoencoderKL.from_pretrained(folder).float()
    old, new = given.config.latent_channels, vae.config.latent_channels
    if old > new:
        raise ValueError(f"--vae_init {folder}: {old} latent channels, the autoencoder to train has {new}")
    latent_layers = {"encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in"}
    sources = given.state_dict()
    for name, weights in vae.state_dict().items():
        if name.rpartition(".")[0] not in latent_layers:
            weights.copy_(sources[name])
    vae.encoder.conv_out.weight[: 2 * old] = given.encoder.conv_out.weight
    vae.encoder.conv_out.bias[: 2 * old] = given.encoder.conv_out.bias
    quant, post = vae.quant_conv, vae.post_quant_conv
    for layer in (quant, post):
        layer.weight.zero_()
        layer.bias.zero_()
    quant.weight[:old, : 2 * old] = given.quant_conv.weight[:old]
    quant.bias[:old] = given.quant_conv.bias[:old]
    post.weight[:old, :old] = given.post_quant_conv.weight
    post.bias[:old] = given.post_quant_conv.bias
    for i in range(old, new):
        quant.weight[i, old + i] = 1
        post.weight[i, i] = 1
    vae.decoder.conv_in.weight[:, :old] = given.decoder.conv_in.weight
    vae.decoder.conv_in.weight[:, old:] = 0
    vae.decoder.conv_in.bias.copy_(given.decoder.conv_in.bias)


def load_pools(args: argparse.Namespace) -> dict[str, Scenes]:
    """The pictures that the run trains on, by kind."""
    counts = {"scenes": args.scenes, "family": args.family} | ({"textures": args.textures} if trains_vae(args) else {})
    return {
        kind: load_scenes(args.work, count, args.processes, kind, args.size, args.first_scene)
        for kind, count in counts.items()
    }


def trains_vae(args: argparse.Namespace) -> bool:
    """Whether the run makes its autoencoder itself; else it is that of `args.init`."""
    return args.init is None or args.vae_init is not None


def train_vae(args: argparse.Namespace) -> None:
    """Trains until `args.vae_steps` or `args.vae_minutes` and writes the result to the folder `vae` in `args.work`."""
    device = parallel.device()
    torch.manual_seed(args.seed)
    vae = build_vae(SHAPES[args.size])
    if args.vae_init is not None:
        start_from(vae, args.vae_init)
    model = ReconstructionLoss(vae).to(device, memory_format=torch.channels_last)
    budget = Budget(args.vae_steps, args.vae_minutes, args.vae_lr, warm_up=100, ema=0.998, save_every=args.save_every)
    training = Training("vae", args.work, model, budget)
    pools = load_pools(args)
    # Each process, and each resumed run, draws other batches.
    seed = args.seed + 1000 * parallel.rank() + training.step
    torch.manual_seed(seed)
    training.run(batches(pools, args.vae_batch, seed))
    if parallel.rank() == 0:
        model.load_state_dict(training.average.values, strict=False)
        normalise_latents(
            model.vae,
            to_tensor(np.concatenate([pools["scenes"].images[:250], pools["family"].images[:250]])).to(device),
        )
        log.info("PSNR %s", psnr_by_style(model.vae))
        model.vae.save_pretrained(args.work / "vae")
    parallel.wait_for_all()
