"""What the map sees of each pixel: brightness and edges at many scales, its own colours, its place in a lattice.

Hatching, screens and tiles that a filter lays over every picture lie where the frame says, whatever is shown: their
frequencies are read off what a first map leaves unexplained, and their phases become inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (0.299, 0.587, 0.114)  # Rec. 601
FINEST = 0.7  # pixels, standard deviation of the finest blur; each next one has twice that
WIDEST_SHARE = 1 / 11  # of the shorter side: the coarsest blur
CHROMA_SCALES = (0.0, 1.4, 2.8)
# A lattice: periods between these, in pixels, and how much of what is left each of its waves must explain.
PERIODS = (2.05, 16.0)
MAX_WAVES, WAVE_SHARE = 4, 0.05
FINER_SPECTRUM = 8

Wave = tuple[float, float]  # cycles per pixel, down and across


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur with repeated edges, (channels, height, width); wide ones are computed on a smaller image."""
    height, width = image.shape[1:]
    halvings = max(0, math.floor(math.log2(max(sigma, 1e-6) / 2)))
    small = image[None]
    if halvings:
        size = [max(1, side >> halvings) for side in (height, width)]
        small = functional.interpolate(small, size=size, mode="area")
    own = sigma / 2**halvings
    radius = max(1, math.ceil(3 * own))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / own) ** 2)
    kernel = (kernel / kernel.sum()).to(image)
    channels = image.shape[0]
    small = functional.pad(small, [radius] * 4, mode="replicate")
    small = functional.conv2d(small, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    small = functional.conv2d(small, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    if halvings:
        small = functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    return small[0]


def luminance(image: Tensor) -> Tensor:
    """(3, height, width) to (1, height, width)."""
    return (image * torch.tensor(LUMINANCE).to(image)[:, None, None]).sum(0, keepdim=True)


def scales_of(image: Tensor) -> tuple[float, ...]:
    """The blurs (standard deviations in pixels) that suit a picture of this size; other pictures take the same."""
    widest = max(FINEST, WIDEST_SHARE * min(image.shape[1:]))
    return tuple(FINEST * 2**step for step in range(1 + int(math.log2(widest / FINEST))))


def tone_features(image: Tensor, scales: Sequence[float], waves: Sequence[Wave] = ()) -> Tensor:
    """Brightness, detail and edges at every scale, each wave's phase, and it times the brightness: (pixels, features).

    Args:
        image: (3, height, width) in [0, 1].
        scales: Of ``scales_of`` the pair.
        waves: Of ``find_waves``.
    """
    light = luminance(image)
    found = [light]
    for sigma in scales:
        smooth = blurred(image, sigma)
        found += [luminance(smooth), luminance(smooth) - light, _slope(smooth).amax(0, keepdim=True) * sigma]
    # Strokes are darker or wider where the picture is: a linear map needs that product.
    near = luminance(blurred(image, 2 * FINEST))
    for phase in phases(image, waves):
        found += [factor * wave()[None] for wave in (phase.cos, phase.sin) for factor in (1, near)]
    return torch.cat(found).flatten(1).T


def phases(image: Tensor, waves: Sequence[Wave]) -> list[Tensor]:
    """Each wave's phase at the pixels of an image, (height, width) in radians."""
    y, x = _places(image)
    return [2 * math.pi * (down * y + across * x) for down, across in waves]


def chroma_features(image: Tensor) -> Tensor:
    """Each pixel's colour less its brightness at three scales: (pixels, scales, 3)."""
    smooth = [blurred(image, sigma) if sigma else image for sigma in CHROMA_SCALES]
    return torch.stack([one - luminance(one) for one in smooth]).flatten(2).permute(2, 0, 1)


def find_waves(unexplained: Tensor) -> list[Wave]:
    """The plane waves that explain most of what a map left over; none where it has no lattice.

    Args:
        unexplained: Style image less the map's, (3, height, width).
    """
    height, width = unexplained.shape[1:]
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    rest = unexplained * window
    size = FINER_SPECTRUM * 2 ** math.ceil(math.log2(min(max(height, width), 256)))
    rest = rest[:, :size, :size]
    down, across = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    distance = (down**2 + across**2).sqrt()
    allowed = (distance > 1 / PERIODS[1]) & (distance < 1 / PERIODS[0])
    y, x = _places(rest)
    waves: list[Wave] = []
    total = rest.square().sum()
    for _ in range(MAX_WAVES):
        power = torch.fft.rfft2(rest, s=(size, size)).abs().square().sum(0) * allowed
        row, column = divmod(int(power.argmax()), power.shape[1])
        wave = (float(down[row, 0]), float(across[column]))
        phase = 2 * math.pi * (wave[0] * y + wave[1] * x)
        basis = torch.stack([phase.cos(), phase.sin()]) * window[: rest.shape[1], : rest.shape[2]]
        flat = basis.flatten(1)
        fitted = torch.linalg.lstsq(flat.T, rest.flatten(1).T).solution.T @ flat
        explained = rest.square().sum() - (rest - fitted.view_as(rest)).square().sum()
        if not explained > WAVE_SHARE * total:
            break
        waves.append(wave)
        rest = rest - fitted.view_as(rest)
    return waves


def _places(image: Tensor) -> tuple[Tensor, Tensor]:
    height, width = image.shape[1:]
    return torch.arange(height, dtype=torch.float32)[:, None], torch.arange(width, dtype=torch.float32)[None]


def _slope(image: Tensor) -> Tensor:
    """Size of the gradient, (channels, height, width)."""
    wide = functional.pad(image[None], [1, 1, 1, 1], mode="replicate")[0]
    across = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / 2
    down = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
    return (across.square() + down.square()).sqrt()
