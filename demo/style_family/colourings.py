"""Colourings: what becomes of the photo's colours."""

from __future__ import annotations

import numpy as np

from demo.style_family.sheet import DARK, LIGHT, MIDDLE, Element, Maker, Sheet, pick
from demo.styles import luminance, mix, saturate, soften


def _palette(rng: np.random.Generator, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Colours from dark to light, (count, 3), and the words for the darkest and the lightest."""
    first = pick(rng, DARK if rng.random() < 0.75 else MIDDLE)
    last = pick(rng, LIGHT if rng.random() < 0.85 else MIDDLE)
    between = [pick(rng, MIDDLE)[1] for _ in range(count - 2)]
    colours = sorted([first[1], *between, last[1]], key=lambda colour: float(luminance(colour)))
    return (first[0], last[0]), np.stack(colours)


def toned(rng: np.random.Generator) -> Element:
    """Two to four colours by brightness, flowing into each other."""
    words, colours = _palette(rng, int(rng.integers(2, 5)))
    low, high = rng.uniform(0.1, 0.35), rng.uniform(0.75, 0.95)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        tone = np.clip((luminance(painted) - low) / (high - low), 0, 1) * (len(colours) - 1)
        below = np.minimum(tone.astype(int), len(colours) - 2)
        return mix(colours[below], colours[below + 1], tone - below)

    return Element((*words, "toned"), paint)


def stepped(rng: np.random.Generator) -> Element:
    """Two to five flat colours by brightness, with clear borders."""
    count = int(rng.integers(2, 6))
    words, colours = _palette(rng, count)
    limits = np.linspace(0.3, 0.8, count + 1)[1:-1] + rng.uniform(-0.06, 0.06, count - 1)
    softness, smoothing = rng.uniform(0.03, 0.08), int(rng.integers(1, 5))

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        tone = luminance(soften(painted, smoothing))
        printed = np.broadcast_to(colours[0], painted.shape)
        for colour, limit in zip(colours[1:], limits, strict=True):
            printed = mix(printed, colour, np.clip((tone - limit) / softness + 0.5, 0, 1))
        return printed

    return Element((*words, "stepped"), paint)


def tinted(rng: np.random.Generator) -> Element:
    """The photo's colours drawn towards one tint."""
    word, tint = pick(rng, MIDDLE | LIGHT)
    share = rng.uniform(0.35, 0.8)
    tint = tint / max(0.6, float(luminance(tint)))
    return Element(
        (word, "tinted"),
        lambda painted, _: mix(painted, luminance(painted)[..., None] * tint, np.full(painted.shape[:2], share)),
    )


def dark(rng: np.random.Generator) -> Element:
    """Dim, under coloured light."""
    word, light = pick(rng, MIDDLE)
    factor, share = rng.uniform(0.45, 0.75), rng.uniform(0.3, 0.9)
    shade = factor * (1 - share + share * light / light.max())
    return Element((word, "dark"), lambda painted, _: saturate(painted, 0.8) * shade.astype(np.float32))


def pale(rng: np.random.Generator) -> Element:
    """Thin colours on a light paper."""
    word, paper = pick(rng, LIGHT)
    share, vividness = rng.uniform(0.3, 0.65), rng.uniform(0.6, 1.4)
    return Element(
        (word, "pale"),
        lambda painted, _: mix(saturate(painted, vividness), paper, np.full(painted.shape[:2], share)),
    )


def vivid(rng: np.random.Generator) -> Element:
    """Stronger colours and contrast than the photo's."""
    factor, contrast = rng.uniform(1.5, 2.2), rng.uniform(1.0, 1.4)
    return Element(("vivid",), lambda painted, _: (saturate(painted, factor) - 0.5) * contrast + 0.5)


def faded(rng: np.random.Generator) -> Element:
    """Hardly any colour left."""
    factor = rng.uniform(0, 0.3)
    return Element(("faded",), lambda painted, _: saturate(painted, factor))


def kept(rng: np.random.Generator) -> Element:
    """The photo's own colours."""
    return Element((), lambda painted, _: painted)


def paper(rng: np.random.Generator) -> Element:
    """Bare paper: only what is drawn on it shows the picture."""
    word, colour = pick(rng, LIGHT)
    shading = rng.uniform(0, 0.25)
    return Element((word, "paper"), lambda painted, sheet: colour * (1 - shading + shading * sheet.tone[..., None]))


COLOURINGS: dict[Maker, float] = {
    toned: 0.16, stepped: 0.22, tinted: 0.1, dark: 0.08, pale: 0.09, vivid: 0.06, faded: 0.05, kept: 0.1, paper: 0.14,
}  # fmt: skip
