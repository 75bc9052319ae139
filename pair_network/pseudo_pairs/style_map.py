"""Maps from a picture to its style, fitted to one pair by its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .details import Details
from .features import Wave, chroma_features, luminance, tone_features
from .tiles import Tiles

KINDS = ("linear", "tone", "colour")  # the cheapest and simplest first
HIDDEN = 48
BATCH = 1024
RATE, DECAY = 5e-3, 1e-2
RIDGE = 1e-3
PART = 1 << 17  # pixels at a time, for the memory


@dataclass(frozen=True)
class Inputs:
    """A picture as a map takes it: tone features (pixels, features) and chroma (pixels, scales, 3)."""

    tone: Tensor
    chroma: Tensor

    def at(self, pixels: Tensor | slice) -> Inputs:
        return Inputs(self.tone[pixels], self.chroma[pixels])


class PixelMap(nn.Module):
    """Colour of a pixel from its features.

    ``linear``: linear in everything, with one gain for each scale of the pixel's own chroma. ``tone``: a small network
    of brightness, edges and lattice alone, so that the pair's few hues say all. ``colour``: the same, plus the chroma
    times gains that the network gives, which reach hues that the pair lacks.
    """

    def __init__(self, kind: str, inputs: Inputs):
        super().__init__()
        self.kind, self.scales = kind, 0 if kind == "tone" else inputs.chroma.shape[1]
        self.mean = inputs.tone.mean(0)
        self.deviation = inputs.tone.std(0) + 1e-2
        width = inputs.tone.shape[1]
        self.skip = nn.Linear(width, 3)
        self.gains = nn.Parameter(torch.zeros(self.scales))
        self.body = nn.Sequential(nn.Linear(width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())
        self.head = nn.Linear(HIDDEN, 3 + self.scales)
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    def forward(self, inputs: Inputs) -> Tensor:
        """(pixels, 3), not clipped."""
        tone = (inputs.tone - self.mean) / self.deviation
        if self.kind == "linear":
            return self.skip(tone) + (self.gains[:, None] * inputs.chroma).sum(1)
        found = self.head(self.body(tone))
        colour = found[:, :3] + self.skip(tone)
        if self.kind == "tone":
            return colour
        return colour + ((found[:, 3:] + self.gains)[:, :, None] * inputs.chroma).sum(1)


@dataclass(frozen=True)
class StyleMap:
    """A fitted map.

    Attributes:
        net: Its pixels' colours.
        scales: At which it sees brightness and edges.
        waves: The lattice it knows.
        tiles: Over which it sees the photo averaged.
        details: Of the pair, which are added to what the net gives.
    """

    net: PixelMap
    scales: tuple[float, ...]
    waves: tuple[Wave, ...]
    tiles: Tiles | None = None
    details: Details | None = None

    @property
    def name(self) -> str:
        parts = {"tiles": self.tiles, "lattice": self.waves, "details": self.details}
        return ", ".join([self.net.kind, *(name for name, part in parts.items() if part)])

    def seen(self, image: Tensor) -> Tensor:
        """What the details see of a photo, as the net does: of the same shape."""
        return self.tiles(image) if self.tiles else image

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """The picture in the style: (3, height, width) in [0, 1] to the same."""
        inputs = inputs_of(image, self.scales, self.waves, self.tiles)
        parts = [self.net(inputs.at(slice(i, i + PART))) for i in range(0, len(inputs.tone), PART)]
        mapped = torch.cat(parts).T.reshape(image.shape).clamp(0, 1)
        return mapped if self.details is None else self.details(self.seen(image), mapped)


def inputs_of(image: Tensor, scales: Sequence[float], waves: Sequence[Wave] = (), tiles: Tiles | None = None) -> Inputs:
    """What a map takes of a photo; with tiles it is averaged over them, and each pixel's place in its tile is known."""
    if tiles is None:
        return Inputs(tone_features(image, scales, waves), chroma_features(image))
    image = tiles(image)
    tone = torch.cat([tone_features(image, scales, waves), tiles.places(luminance(image))], dim=1)
    return Inputs(tone, chroma_features(image))


def fit(kind: str, inputs: Inputs, wanted: Tensor, steps: int) -> PixelMap:
    """The map of a kind with the least squared error, from a private random stream.

    Args:
        kind: One of ``KINDS``.
        inputs: Of the content image.
        wanted: The style image's pixels, (pixels, 3).
        steps: Updates of a network; a linear map is solved for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = PixelMap(kind, inputs)
    if kind == "linear":
        _solve(net, inputs, wanted)
        return net
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    with torch.enable_grad():
        for _ in range(steps):
            some = torch.randint(len(wanted), (BATCH,), generator=generator)
            loss = (net(inputs.at(some)) - wanted[some]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@torch.no_grad()
def _solve(net: PixelMap, inputs: Inputs, wanted: Tensor) -> None:
    """Ridge regression: each colour has weights of its own for the tone features, all share the chroma's gains."""
    tone = (inputs.tone - net.mean) / net.deviation
    design = torch.cat([tone, torch.ones(len(tone), 1)], dim=1).double()
    width, scales = design.shape[1], net.scales
    gram, right = torch.zeros(3 * width + scales, 3 * width + scales).double(), torch.zeros(3 * width + scales).double()
    for colour in range(3):
        own = torch.arange(colour * width, (colour + 1) * width)
        places = torch.cat([own, torch.arange(3 * width, 3 * width + scales)])
        rows = torch.cat([design, inputs.chroma[:, :, colour].double()], dim=1)
        gram[places[:, None], places] += rows.T @ rows
        right[places] += rows.T @ wanted[:, colour].double()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram, right).float()
    weights = solution[: 3 * width].view(3, width)
    net.skip.weight.copy_(weights[:, :-1])
    net.skip.bias.copy_(weights[:, -1])
    net.gains.copy_(solution[3 * width :])
