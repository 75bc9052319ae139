"""How two pictures lie on each other: the same one, one drawn over the other, shifted, mirrored, or unrelated.

A style changes colours, lines and surfaces, but the places where something ends stay where they were. So what is
compared is the *edge energy*: how much the colours change around each pixel, whatever the colours are. Its
cross-correlation with the other picture's has a peak at no shift for a pair, elsewhere for a shifted one, and none for
unrelated pictures. The peak is given in standard deviations above the values at all other shifts, which needs no
threshold per style (the peak-to-sidelobe ratio of correlation filters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 128  # pixels of the longer side that is compared
SCALES = (1.0, 1.5, 2.5, 4.0)  # of the edges, in those pixels: pen strokes hide in the coarser ones
REACH = 0.15  # largest shift looked for, as a share of the shorter side
NEAR = 2  # pixels of SIDE within which the peak counts as "no shift"

Array = np.ndarray


@dataclass(frozen=True)
class Relation:
    """What the comparison of two pictures gave.

    Attributes:
        difference: Mean absolute difference of the colours, 0 to 1.
        peak: The correlation at no shift, in standard deviations above that at other shifts.
        shifted_peak: The highest at any shift within ``REACH``, likewise.
        shift: Where that is: x and y by which the second picture lies off, as shares of width and height.
        mirrored_peak: ``peak`` with the second picture mirrored.
    """

    difference: float
    peak: float
    shifted_peak: float
    shift: tuple[float, float]
    mirrored_peak: float


def relate(first: Image.Image, second: Image.Image) -> Relation:
    """Compares two RGB pictures of one shape (within a pixel's rounding)."""
    a, b = small(first), small(second, size_of=first)
    best = max((_peaks(a, b, scale) for scale in SCALES), key=lambda peaks: peaks[0])
    shifted = max((_peaks(a, b, scale) for scale in SCALES), key=lambda peaks: peaks[1])
    mirrored = max(_peaks(a, b[:, ::-1], scale)[0] for scale in SCALES)
    return Relation(float(np.abs(a - b).mean()), best[0], shifted[1], shifted[2], mirrored)


def small(image: Image.Image, size_of: Image.Image | None = None) -> Array:
    """The picture at ``SIDE`` pixels: (height, width, 3) in [0, 1]."""
    width, height = (size_of or image).size
    scale = SIDE / max(width, height)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    resized = image.convert("RGB").resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32) / 255


def edge_energy(image: Array, scale: float) -> Array:
    """Size of the colours' gradient at a scale in pixels, its slow variation taken off: (height, width)."""
    gradient = np.gradient(_smooth(image, scale), axis=(0, 1))
    energy = np.sqrt(sum((part**2).sum(-1) for part in gradient))
    energy = energy / (energy.mean() + 1e-3)
    return np.asarray(energy - _smooth(energy, 12))


def _smooth(image: Array, sigma: float) -> Array:
    """Gaussian blur, edges wrapped around."""
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None]
    response = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    response = response if image.ndim == 2 else response[..., None]
    return np.asarray(np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * response, axes=(0, 1)).real)


def _windowed(energy: Array) -> Array:
    weights = np.sqrt(np.outer(np.hanning(energy.shape[0] + 2)[1:-1], np.hanning(energy.shape[1] + 2)[1:-1]))
    return np.asarray((energy - (energy * weights).sum() / weights.sum()) * weights)


def _peaks(a: Array, b: Array, scale: float) -> tuple[float, float, tuple[float, float]]:
    """The peak at no shift, the highest within reach, and its shift."""
    correlation = _correlation(_windowed(edge_energy(a, scale)), _windowed(edge_energy(b, scale)))
    height, width = a.shape[:2]
    y, x = correlation.shape[0] // 2, correlation.shape[1] // 2
    around = correlation[y - height // 2 : y + height // 2, x - width // 2 : x + width // 2]
    reach = int(REACH * min(height, width))
    within = correlation[y - reach : y + reach + 1, x - reach : x + reach + 1]
    dy, dx = (int(i) - reach for i in np.unravel_index(within.argmax(), within.shape))
    far = np.ones_like(around, bool)
    for row, column in ((0, 0), (dy, dx)):
        top, left = height // 2 + row, width // 2 + column
        far[max(0, top - 4) : top + 5, max(0, left - 4) : left + 5] = False
    mean, deviation = around[far].mean(), around[far].std() + 1e-9
    near = correlation[y - NEAR : y + NEAR + 1, x - NEAR : x + NEAR + 1].max()
    shift = (-dx / width, -dy / height)
    return float((near - mean) / deviation), float((within.max() - mean) / deviation), shift


def _correlation(a: Array, b: Array) -> Array:
    """Normalised cross-correlation at all shifts, no shift in the middle: (2 height, 2 width)."""
    size = (2 * a.shape[0], 2 * a.shape[1])
    product = np.fft.rfft2(a, size) * np.conj(np.fft.rfft2(b, size))
    return np.asarray(np.fft.fftshift(np.fft.irfft2(product, size)) / np.sqrt((a**2).sum() * (b**2).sum() + 1e-9))


def flat_share(image: Image.Image) -> float:
    """Share of neighbouring pixels that are equal but for rounding: high in flat paintings, low in photos."""
    values = np.asarray(image.convert("RGB"), np.int16)
    if values.shape[1] < 2:
        return 1.0
    return float((np.abs(np.diff(values, axis=1)).max(-1) <= 1).mean())
