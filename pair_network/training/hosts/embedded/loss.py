"""Noise, timesteps and losses as sd-scripts defines them, one value per row."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...protocols import NoiseScheduler
from .config import EmbeddedOptions


def draw_noise(args: EmbeddedOptions, latents: Tensor) -> Tensor:
    """Standard normal noise of the latents' shape, each channel shifted when --noise_offset is set."""
    noise = torch.randn_like(latents)
    if args.noise_offset:
        noise = noise + args.noise_offset * torch.randn(*latents.shape[:2], 1, 1, device=latents.device)
    return noise


def draw_timesteps(args: EmbeddedOptions, num_train_timesteps: int, rows: int, device: torch.device) -> Tensor:
    """A uniform timestep for every row, in [min_timestep, max_timestep): (rows,) int64, drawn on the CPU."""
    low = 0 if args.min_timestep is None else args.min_timestep
    high = num_train_timesteps if args.max_timestep is None else min(args.max_timestep, num_train_timesteps)
    return torch.randint(low, high, (rows,)).to(device)


def row_loss(
    args: EmbeddedOptions, pred: Tensor, target: Tensor, timesteps: Tensor, scheduler: NoiseScheduler
) -> Tensor:
    """The loss of every row, (rows,) float32: mean over channels and pixels of ``pred``, ``target`` (rows, c, h, w)."""
    if args.loss_type == "l2":
        loss = F.mse_loss(pred.float(), target.float(), reduction="none")
    elif args.loss_type == "l1":
        loss = F.l1_loss(pred.float(), target.float(), reduction="none")
    else:
        c = huber_threshold(args, timesteps, scheduler).view(-1, 1, 1, 1)
        loss = 2 * (torch.sqrt((pred.float() - target.float()) ** 2 + c**2) - c)
        if args.loss_type == "huber":
            loss = loss * c
    return loss.mean(dim=(1, 2, 3))


def huber_threshold(args: EmbeddedOptions, timesteps: Tensor, scheduler: NoiseScheduler) -> Tensor:
    """Where the pseudo-Huber loss turns from quadratic to linear, (rows,), after --huber_schedule."""
    if args.huber_schedule == "constant":
        return torch.full(timesteps.shape, args.huber_c * args.huber_scale, device=timesteps.device)
    if args.huber_schedule == "exponential":
        rate = -math.log(args.huber_c) / scheduler.config.num_train_timesteps
        return torch.exp(-rate * timesteps) * args.huber_scale
    alphas_cumprod = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return (1 - args.huber_c) / (1 + sigmas) ** 2 + args.huber_c


def min_snr_weight(timesteps: Tensor, all_snr: Tensor, gamma: float, v_prediction: bool) -> Tensor:
    """Min-SNR weights (rows,): min(snr, gamma) / snr, or / (snr + 1) for v-prediction (arXiv:2303.09556)."""
    snr = all_snr.to(timesteps.device)[timesteps]
    if v_prediction:
        return snr.clamp(max=gamma) / (snr + 1)
    # the ratio's limit at zero terminal SNR is 1
    return torch.where(snr > gamma, gamma / snr, torch.ones_like(snr))
