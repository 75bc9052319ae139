"""Styles of tiles, as pixel art and mosaics are: where the tiles lie, and a photo seen through them.

A map of pixels cannot know the mean of a tile, and smooth scales only come near it. So the photo is averaged over the
painting's own tiles first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

LEAST_SIDE = 3  # pixels
LEAST_TILES = 4  # along each side of the picture
MOST_PLACES = 16  # that are told apart along a tile's side; larger tiles have wider ones, for the memory
# Between two tiles the painting has to change by this many times as much as elsewhere, along both sides.
CONTRAST = 1.5


@dataclass(frozen=True)
class Tiles:
    """A grid over every picture, cut off at the edges.

    Attributes:
        down: Height of a tile and the row at which one begins, in pixels.
        across: Width of a tile and the column at which one begins.
    """

    down: tuple[int, int]
    across: tuple[int, int]

    def __call__(self, image: Tensor) -> Tensor:
        """Every tile replaced by its mean, (channels, height, width)."""
        for axis, (side, first) in ((1, self.down), (2, self.across)):
            tiles = torch.arange(image.shape[axis]).sub(first).div(side, rounding_mode="floor")
            tiles = tiles - tiles[0]
            counts = torch.bincount(tiles)
            shape = list(image.shape)
            shape[axis] = len(counts)
            sums = torch.zeros(shape).to(image).index_add(axis, tiles, image)
            image = (sums / counts.view([-1 if i == axis else 1 for i in range(3)])).index_select(axis, tiles)
        return image

    def places(self, light: Tensor) -> Tensor:
        """Row and column of each pixel in its tile, and them times the brightness: (pixels, features).

        Args:
            light: (1, height, width).
        """
        found = []
        for axis, (side, first) in ((1, self.down), (2, self.across)):
            count = min(side, MOST_PLACES)
            at = torch.arange(light.shape[axis]).sub(first).remainder(side) * count // side
            shape = (count, -1, 1) if axis == 1 else (count, 1, -1)
            lines = one_hot(at, count).T.to(light).view(shape).expand(count, *light.shape[1:])
            found += [lines, lines * light]
        return torch.cat(found).flatten(1).T


def find_tiles(style: Tensor) -> Tiles | None:
    """The tiles that a painting consists of; None where it has none.

    Args:
        style: (3, height, width) in [0, 1].
    """
    found = []
    for axis in (1, 2):
        # The square root, so that one strong edge of the picture does not pass for many tiles.
        steps = style.diff(dim=axis).abs().sum(0).sqrt().mean(2 - axis)
        grid = _grid(steps)
        if grid is None:
            return None
        found.append(grid)
    return Tiles(found[0], found[1])


def _grid(steps: Tensor) -> tuple[int, int] | None:
    """Side and start of tiles along an axis, from how much the picture changes between its lines, (lines - 1,)."""
    best, found = 0.0, None
    for side in range(LEAST_SIDE, len(steps) // LEAST_TILES + 1):
        places = torch.arange(len(steps)) % side
        counts = torch.bincount(places, minlength=side)
        means = torch.bincount(places, steps, minlength=side) / counts
        at = int(means.argmax())
        rest = (steps.sum() - means[at] * counts[at]) / (len(steps) - counts[at])
        # Of a side and its multiples the one with more tiles.
        score = float(means[at] - rest) * math.sqrt(float(counts[at]))
        if means[at] > CONTRAST * rest and score > best:
            # The change between lines n and n + 1 is a tile that begins at n + 1.
            best, found = score, (side, (at + 1) % side)
    return found
