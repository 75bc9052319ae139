"""What a map of pixels leaves out, taken from the pair where it looks alike: strokes, edges and textures.

A map with the least squared error draws softly what it cannot place. As in image analogies (Hertzmann et al. 2001),
every pixel is looked up in the pair by the patch around it, and is given what the map lacked there. Colours stay the
map's, so that the pair's few hues are not forced on other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .features import Wave, luminance, phases

RADIUS = 3  # pixels around one by which it is looked up
SHARED = 1  # and those to which it brings its details; where several do, their mean counts
DIMENSIONS = 24  # of a patch's main components
PHOTO_WEIGHT, WAVE_WEIGHT = 0.5, 0.7  # of the photo's brightness and of a wave's phase, beside the map's brightness
SAMPLES = 1 << 12  # pixels of the pair that are kept; of larger pictures a random part
PART = 1 << 12  # pixels that are looked up at a time, for the memory


@dataclass(frozen=True)
class Details:
    """Pixels of the pair and what the map lacks around them.

    Attributes:
        kernels: Main components of patches, (dimensions, 2, side, side): of the map's brightness and the photo's.
        waves: The map's lattice.
        keys: (samples, dimensions + 2 · waves).
        missing: Painting less map around each sample, (samples, 3 · side · side).
    """

    kernels: Tensor
    waves: tuple[Wave, ...]
    keys: Tensor
    missing: Tensor

    def __call__(self, content: Tensor, mapped: Tensor) -> Tensor:
        """The map's picture with details, (3, height, width) in [0, 1].

        Args:
            content: The photo, of the same shape.
            mapped: What the map makes of it.
        """
        keys = _keys(content, mapped, self.kernels, self.waves)
        # The nearest has the largest q · k - |k|² / 2, a product and no square root.
        offset = -self.keys.square().sum(1) / 2
        nearest = torch.cat([torch.addmm(offset, part, self.keys.T).argmax(1) for part in keys.split(PART)])
        size, side = mapped.shape[1:], 2 * SHARED + 1
        found = self.missing[nearest].T[None]
        summed = functional.fold(found, size, side, padding=SHARED)
        counted = functional.fold(torch.ones_like(found), size, side, padding=SHARED)
        return (mapped + (summed / counted)[0]).clamp(0, 1)


def details_of(
    content: Tensor, mapped: Tensor, style: Tensor, waves: Sequence[Wave], kept: Tensor | None = None
) -> Details:
    """The pair's details.

    Args:
        content, style: The pair, (3, height, width) in [0, 1].
        mapped: What the map makes of the photo.
        waves: The map's lattice.
        kept: Pixels to take them from, (pixels,) booleans; None: all.
    """
    patches = _patches(_seen(content, mapped), RADIUS)
    centred = patches - patches.mean(0)
    main = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -DIMENSIONS:]
    kernels = main.T.reshape(-1, 2, 2 * RADIUS + 1, 2 * RADIUS + 1)
    pixels = torch.arange(len(patches)) if kept is None else kept.nonzero().flatten()
    chosen = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
    keys, missing = _keys(content, mapped, kernels, waves), _patches(style - mapped, SHARED)
    return Details(kernels, tuple(waves), keys[chosen], missing[chosen])


def _seen(content: Tensor, mapped: Tensor) -> Tensor:
    return torch.cat([luminance(mapped), PHOTO_WEIGHT * luminance(content)])


def _keys(content: Tensor, mapped: Tensor, kernels: Tensor, waves: Sequence[Wave]) -> Tensor:
    """What every pixel is looked up by, (pixels, dimensions + 2 · waves)."""
    wide = functional.pad(_seen(content, mapped)[None], [RADIUS] * 4, mode="replicate")
    found = [functional.conv2d(wide, kernels)[0]]
    found += [WAVE_WEIGHT * torch.stack([phase.cos(), phase.sin()]) for phase in phases(content, waves)]
    return torch.cat(found).flatten(1).T


def _patches(image: Tensor, radius: int) -> Tensor:
    """(channels, height, width) to (pixels, channels · side · side); edges are repeated."""
    wide = functional.pad(image[None], [radius] * 4, mode="replicate")
    return functional.unfold(wide, 2 * radius + 1)[0].T
