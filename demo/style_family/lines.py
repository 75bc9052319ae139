"""Lines along the edges, and finishes that lie over everything."""

from __future__ import annotations

import numpy as np

from demo.style_family.sheet import DARK, INKS, LIGHT, Element, Maker, Sheet, pick
from demo.styles import UNITS, mix, saturate, soften


def outlined(rng: np.random.Generator) -> Element:
    """Lines along the edges, dark or light."""
    word, colour = pick(rng, INKS if rng.random() < 0.8 else LIGHT)
    threshold, softness, heavy = rng.uniform(0.06, 0.13), rng.uniform(0.1, 0.22), rng.random() < 0.3

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        lines = sheet.lines(threshold, softness)
        if heavy:
            lines = np.clip(1.8 * soften(lines), 0, 1)
        return mix(painted, colour, lines.astype(np.float32))

    return Element((*(("heavy",) if heavy else ()), word, "outlined"), paint)


def glowing(rng: np.random.Generator) -> Element:
    """The edges shine in the picture's own colours."""
    strength = rng.uniform(0.9, 1.5)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        glow = np.clip(strength * soften(sheet.lines(0.1, 0.16), 2), 0, 1)
        bright = sheet.photo / (sheet.photo.max(-1, keepdims=True) + 1e-3)
        return mix(painted, saturate(bright, 1.5), glow.astype(np.float32))

    return Element(("glowing",), paint)


LINES: dict[Maker, float] = {outlined: 0.85, glowing: 0.15}


def washed(rng: np.random.Generator) -> Element:
    """Thin paint that pools at the edges; the paper shows through."""
    pool, lift = rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.35)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        thin = 1 - (1 - lift) * (1 - soften(painted, 2))
        edges = soften(sheet.lines(0.05, 0.2))
        return thin * (1 - pool * edges[..., None])

    return Element(("washed",), paint)


def soft(rng: np.random.Generator) -> Element:
    """Without sharp edges."""
    times = int(rng.integers(3, 8))
    return Element(("soft",), lambda painted, sheet: soften(painted, times))


def framed(rng: np.random.Generator) -> Element:
    """Corners that fall away into a colour."""
    word, colour = pick(rng, DARK if rng.random() < 0.6 else LIGHT)
    start, depth = rng.uniform(0.45, 0.65), rng.uniform(0.6, 1.0)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        y, x = (2 * place / UNITS - 1 for place in sheet.places)
        return mix(painted, colour, (depth * np.clip((np.hypot(y, x) - start) / 0.7, 0, 1)).astype(np.float32))

    return Element((word, "framed"), paint)


FINISHES: dict[Maker, float] = {washed: 0.5, soft: 0.25, framed: 0.25}
