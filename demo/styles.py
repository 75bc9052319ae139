"""Styles as functions of an image: base styles that the model is trained on, and held-out operators that it never sees.

Each takes and gives (height, width, 3) float32 in [0, 1] and draws nothing at random, so a held-out operator is the
perfect answer to "this picture in that style". No texture repeats every 4 pixels: those are the autoencoder's cells,
and with the same content in each of them a decoder that treats all cells alike cannot draw anything within one.
Lengths are in units of 1/64 of the picture, so that a style looks alike at every size; at 64 px a unit is a pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNITS = 64
Style = Callable[[np.ndarray], np.ndarray]


def luminance(image: np.ndarray) -> np.ndarray:
    """Rec. 601 brightness: (height, width) in [0, 1]."""
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def blur(image: np.ndarray, times: int = 1) -> np.ndarray:
    """Smooths with the binomial kernel (1, 2, 1) / 4 along both axes, `times` over; edges are repeated."""
    for _ in range(times):
        for axis in (0, 1):
            pad = [(0, 0)] * image.ndim
            pad[axis] = (1, 1)
            wide = np.pad(image, pad, mode="edge")
            wide = np.moveaxis(wide, axis, 0)
            image = np.moveaxis((wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4, 0, axis)
    return image


def unit_of(image: np.ndarray) -> float:
    """Pixels per unit of length; pictures of less than 64 px keep whole pixels."""
    return max(1.0, image.shape[0] / UNITS)


def soften(image: np.ndarray, times: int = 1) -> np.ndarray:
    """Smooths as `blur` does at 64 px, as widely at every size."""
    return blur(image, round(times * unit_of(image) ** 2))


def outline(image: np.ndarray, threshold: float = 0.1, softness: float = 0.16) -> np.ndarray:
    """Where the colour changes sharply: (height, width), 0 on flat areas and near 1 on edges, without stairs."""
    smooth = soften(image)
    dy, dx = np.gradient(smooth, axis=(0, 1))
    strength = np.sqrt(dx**2 + dy**2).max(axis=-1) * (2 * unit_of(image))
    return soften(np.clip((strength - threshold) / softness, 0, 1))


def mix(below: np.ndarray, above: np.ndarray | tuple[float, float, float], cover: np.ndarray) -> np.ndarray:
    """`above` laid over `below` with `cover` (height, width) in [0, 1]."""
    return below + (np.asarray(above, np.float32) - below) * cover[..., None]


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Moves colours away from (factor > 1) or towards (factor < 1) their own gray."""
    gray = luminance(image)[..., None]
    return np.clip(gray + (image - gray) * factor, 0, 1)


def _pixels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels in units, y (height, 1) and x (1, width); at 64 px their indices."""
    y, x = ((np.arange(n) + 0.5) / unit_of(image) - 0.5 for n in image.shape[:2])
    return y[:, None], x[None, :]


def _tile_places(image: np.ndarray, side: int) -> list[np.ndarray]:
    """Whole units within the tiles of `mosaic`, y (height, 1) and x (1, width) in [0, side)."""
    unit = unit_of(image)
    return [np.rint(place + tile_offset(place.size, round(side * unit)) / unit) % side for place in _pixels(image)]


def mosaic(image: np.ndarray, side: int) -> np.ndarray:
    """Every side x side tile replaced by its mean; the tiles along the edges are cut off alike on both sides."""
    for axis in (0, 1):
        length = image.shape[axis]
        tiles = (np.arange(length) + tile_offset(length, side)) // side
        starts = np.flatnonzero(np.diff(tiles, prepend=-1))
        sizes = np.diff(starts, append=length)
        shares = np.repeat(1 / sizes, sizes).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        means = np.add.reduceat(image * shares.astype(np.float32), starts, axis)
        image = means.repeat(sizes, axis)
    return image


def tile_offset(length: int, side: int) -> int:
    """Where the first pixel of `length` lies in its tile, so that what is cut off is the same at both ends."""
    return -length % side // 2


def sketch(image: np.ndarray) -> np.ndarray:
    """Black pencil outlines on white paper, with a breath of shading."""
    paper = 0.9 + 0.06 * luminance(soften(image))[..., None].repeat(3, -1)
    return mix(paper, (0.16, 0.16, 0.18), outline(image))


def neon(image: np.ndarray) -> np.ndarray:
    """Glowing coloured outlines in the dark."""
    glow = soften(outline(image), 2)
    bright = image / (image.max(-1, keepdims=True) + 1e-3)
    return mix(0.06 + 0.12 * image, saturate(bright, 1.5), np.clip(1.3 * glow, 0, 1))


def pastel(image: np.ndarray) -> np.ndarray:
    """Soft and pale, as through a milky pane."""
    return 0.45 + 0.52 * saturate(soften(image, 4), 0.85)


def linen(image: np.ndarray) -> np.ndarray:
    """Printed on coarse cloth: dark threads every 6 pixels, both ways."""
    y, x = (np.rint(place) for place in _pixels(image))
    thread = (1 - 0.3 * (x % 6 < 2)) * (1 - 0.3 * (y % 6 < 2))
    return soften(image) * thread[..., None].astype(np.float32)


def night(image: np.ndarray) -> np.ndarray:
    """The same place by moonlight: dark, blue and cold."""
    cold = saturate(image, 0.55) * np.array([0.30, 0.42, 0.72], np.float32)
    return np.clip(cold * (0.55 + 0.6 * luminance(image)[..., None]), 0, 1)


def poster(image: np.ndarray) -> np.ndarray:
    """A screen print: four warm inks by brightness, with heavy dark outlines."""
    inks = np.array([(0.36, 0.10, 0.22), (0.80, 0.26, 0.20), (0.96, 0.66, 0.32), (0.99, 0.92, 0.76)], np.float32)
    tone = luminance(soften(image, 3))
    printed = np.broadcast_to(inks[0], image.shape)
    for ink, limit in zip(inks[1:], (0.36, 0.55, 0.74), strict=True):
        printed = mix(printed, ink, np.clip((tone - limit) / 0.04 + 0.5, 0, 1))
    return mix(printed, (0.07, 0.06, 0.14), outline(image, 0.09))


def ink(image: np.ndarray) -> np.ndarray:
    """Navy hatching on cream paper: one stroke direction in half-tones, two in shadows, and outlines."""
    y, x = _pixels(image)
    dark = 1 - luminance(soften(image, 2))
    rising, falling = (np.clip(2.2 - np.abs(line % 6 - 2.5), 0, 1) for line in (x + y, x - y))
    cover = rising * np.clip((dark - 0.22) * 2.6, 0, 0.7)
    cover = np.maximum(cover, falling * np.clip((dark - 0.52) * 4, 0, 0.7))
    paper = np.broadcast_to(np.array([0.97, 0.94, 0.86], np.float32), image.shape)
    return mix(paper, (0.17, 0.23, 0.49), np.maximum(cover, outline(image)).astype(np.float32))


def watercolour(image: np.ndarray) -> np.ndarray:
    """Thin washes that pool at their edges, on grainy paper that shows through."""
    y, x = _pixels(image)
    wash = saturate(soften(image, 3), 1.5)
    wash = 1 - 0.72 * (1 - wash)
    pool = soften(outline(image, 0.05, 0.2))
    grain = np.sin(x * np.pi / 4 + 0.8 * np.sin(y * np.pi / 4)) * np.sin(y * np.pi / 4 + 0.6)
    painted = wash * (1 - 0.45 * pool[..., None]) * (1 + 0.07 * grain[..., None])
    return np.clip(painted, 0, 1).astype(np.float32)


def duotone(image: np.ndarray) -> np.ndarray:
    """Two colours by brightness: deep violet shadows, mint lights."""
    tone = np.clip((luminance(image) - 0.2) / 0.75, 0, 1)
    violet = np.broadcast_to(np.array([0.24, 0.06, 0.42], np.float32), image.shape)
    return mix(violet, (0.66, 0.98, 0.78), tone)


def halftone(image: np.ndarray) -> np.ndarray:
    """Newspaper dots of the local colour on white, larger where it is darker, in a lattice turned by 45 degrees."""
    y, x = _pixels(image)
    local = soften(image, 4)
    dark = 1 - luminance(local)
    centres = ((3.5, 3.5), (7.5, 7.5))
    distance = np.minimum(*(np.hypot((y - v + 4) % 8 - 4, (x - u + 4) % 8 - 4) for v, u in centres))
    dots = np.clip(1.0 + 3.0 * dark - distance + 0.5, 0, 1)
    dye = saturate(local, 1.8) * 0.8
    return mix(np.full_like(image, 0.97), dye, dots.astype(np.float32))


def pixel(image: np.ndarray) -> np.ndarray:
    """Tiles of 6 pixels in a teal cast, lit at the top left and dark at the bottom right."""
    y, x = _tile_places(image, 6)
    tiles = mosaic(image, round(6 * unit_of(image)))
    tinted = 0.62 * tiles + 0.38 * luminance(tiles)[..., None] * np.array([0.35, 1.0, 0.95], np.float32)
    light = ((x == 0) | (y == 0)).astype(np.float32)
    dark = ((x == 5) | (y == 5)).astype(np.float32)
    return mix(mix(tinted, (1.0, 1.0, 1.0), 0.22 * light * (1 - dark)), (0.0, 0.08, 0.12), 0.34 * dark)


BASE_STYLES: dict[str, Style] = {"sketch": sketch, "neon": neon, "pastel": pastel, "linen": linen, "night": night}
HELD_OUT_STYLES: dict[str, Style] = {
    "poster": poster,
    "ink": ink,
    "watercolour": watercolour,
    "duotone": duotone,
    "halftone": halftone,
    "pixel": pixel,
}
STYLES: dict[str, Style] = BASE_STYLES | HELD_OUT_STYLES
