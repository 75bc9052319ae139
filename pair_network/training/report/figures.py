"""What a style LoRA has learnt, in figures that need no right answer: the model's own autoencoder is the eye.

The previews show each prompt by the base model and with the style, from the same noise. docs/report.md says how well
each figure ranks what is known to be right, and the run behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 512  # pixels of the longer side that is looked at
STEP = 64  # sides are multiples of this, for any autoencoder
NAMES = ("style reached", "structure kept")


@dataclass(frozen=True)
class Seen:
    """Features of pictures.

    Attributes:
        colours: Of the encoder's first block, (pictures, channels, h, w).
        latents: (pictures, channels, h, w).
    """

    colours: Tensor
    latents: Tensor


class Eye:
    """Looks at pictures with an autoencoder (diffusers' AutoencoderKL).

    Args:
        vae: The model's own; its weights, mode and device stay as they are.
    """

    def __init__(self, vae: Any):
        self.vae = vae

    @torch.no_grad()
    def look(self, images: Sequence[Image.Image], side: int = SIDE) -> Seen:
        """Features of pictures of one size.

        Args:
            images: Each is scaled alike.
            side: Pixels of the longer side.
        """
        kept: list[Tensor] = []
        first, weight = self.vae.encoder.down_blocks[0], next(self.vae.parameters())
        with first.register_forward_hook(lambda block, given, out: kept.append(out)):
            pixels = torch.stack([pixels_of(image, side) for image in images]).to(weight.device, weight.dtype)
            latents = [self.vae.encode(one[None] * 2 - 1).latent_dist.mean for one in pixels]
        return Seen(torch.cat(kept).float().cpu(), torch.cat(latents).float().cpu())


def figures(base: Seen, styled: Seen, content: Seen, style: Seen) -> dict[str, float]:
    """What the previews say by name; nothing where a feature is no number (16 bits overflow in some autoencoders).

    Args:
        base: Previews of the base model.
        styled: The same prompts and seeds with the style.
        content: The pair's photo.
        style: The pair's painting.
    """
    values = {NAMES[0]: style_reached(base, styled, content, style), NAMES[1]: structure_kept(base, styled)}
    return {name: round(value, 3) for name, value in values.items() if np.isfinite(value)}


def style_reached(base: Seen, styled: Seen, content: Seen, style: Seen) -> float:
    """0 for the base model's pictures, 1 for pictures that have gone as far as the painting is from the photo.

    The mean of two: how much nearer to the painting's colours and strokes each picture has come, and how far all of
    them have gone in the direction in which the painting lies from the photo.
    """
    near, unit = statistics(style.colours), spread(statistics(base.colours))
    before, after = (((statistics(one.colours) - near) / unit).square().mean(1).sqrt() for one in (base, styled))
    unit = spread(statistics(base.latents))
    wanted = (statistics(style.latents) - statistics(content.latents))[0] / unit
    moved = (statistics(styled.latents) - statistics(base.latents)).mean(0) / unit
    return float((1 - after.mean() / before.mean() + (moved @ wanted) / (wanted @ wanted)) / 2)


def structure_kept(base: Seen, styled: Seen) -> float:
    """Correlation of the latents with base's, channel by channel blind to their mean and deviation; 1: all in place."""
    a, b = (normalised(one.latents).flatten(1) for one in (base, styled))
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-9)).mean())


def statistics(features: Tensor) -> Tensor:
    """Mean and deviation of each channel, (pictures, 2 channels): what a style changes everywhere."""
    return torch.cat([features.mean((2, 3)), features.std((2, 3))], 1)


def spread(values: Tensor) -> Tensor:
    """How much the statistics of pictures differ, (values,): their unit. One picture alone has no spread."""
    deviation = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
    return deviation + 0.05 * values.abs().mean(0) + 1e-4


def normalised(features: Tensor) -> Tensor:
    """Every channel of every picture with mean 0 and deviation 1."""
    return (features - features.mean((2, 3), keepdim=True)) / (features.std((2, 3), keepdim=True) + 1e-5)


def pixels_of(image: Image.Image, side: int) -> Tensor:
    """(3, h, w) in [0, 1], both sides multiples of ``STEP``."""
    scale = side / max(image.size)
    width, height = (max(STEP, round(length * scale / STEP) * STEP) for length in image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small, np.float32) / 255).movedim(-1, 0)
