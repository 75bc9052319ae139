"""Textures: strokes, dots, tiles, grids, grain and cloth, drawn by darkness or over everything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demo.style_family.sheet import (
    DARK,
    INKS,
    LIGHT,
    Element,
    Maker,
    Painter,
    Sheet,
    cover_of,
    draw_angle,
    draw_period,
    pick,
)
from demo.styles import UNITS, mix, mosaic, saturate, soften


def _ink(rng: np.random.Generator) -> tuple[tuple[str, ...], Painter]:
    """What a texture is drawn with: a named ink, the photo's own colours, or white."""
    kind = rng.random()
    if kind < 0.6:
        word, colour = pick(rng, INKS)
        return (word,), lambda painted, sheet: np.broadcast_to(colour, painted.shape)
    if kind < 0.85:
        depth = rng.uniform(0.4, 0.8)
        return (), lambda painted, sheet: saturate(sheet.smooth(3), 1.6) * depth
    return ("white",), lambda painted, sheet: np.full_like(painted, 0.97)


def _need(rng: np.random.Generator) -> Callable[[Sheet], np.ndarray]:
    """How much ink a place gets, (height, width) around [0, 1]: by darkness mostly, else the same everywhere."""
    if rng.random() < 0.75:
        start, slope = rng.uniform(0.0, 0.22), rng.uniform(1.1, 2.2)
        return lambda sheet: np.clip((1 - sheet.tone - start) * slope, 0, 1)
    level = rng.uniform(0.35, 0.6)
    return lambda sheet: np.full(sheet.photo.shape[:2], level)


def hatched(rng: np.random.Generator) -> Element:
    """Strokes in one direction, heavier where it is darker; or in two, the second in the shadows."""
    (direction, angle), (size, period) = draw_angle(rng), draw_period(rng)
    words, colour = _ink(rng)
    need, depth, crossed = _need(rng), rng.uniform(0.6, 1.0), rng.random() < 0.4
    shift, second = rng.uniform(0, period), angle + rng.uniform(0.35, 0.65) * np.pi

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        wanted = need(sheet)
        cover = cover_of(sheet.waves(angle, period, shift), 0.4 * period * wanted, sheet.unit)
        if crossed:
            more = 0.4 * period * np.clip(2 * wanted - 0.9, 0, 1)
            cover = np.maximum(cover, cover_of(sheet.waves(second, period, shift), more, sheet.unit))
        return mix(painted, colour(painted, sheet), (depth * cover * (wanted > 0.02)).astype(np.float32))

    return Element((*size, *words, direction, "crosshatched" if crossed else "hatched"), paint)


def dotted(rng: np.random.Generator) -> Element:
    """Dots on a turned lattice, larger where it is darker."""
    (size, period), angle = draw_period(rng, 4.8, 9.5), rng.uniform(0, np.pi / 2)
    words, colour = _ink(rng)
    need, depth = _need(rng), rng.uniform(0.7, 1.0)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        distance = np.hypot(sheet.waves(angle, period), sheet.waves(angle + np.pi / 2, period))
        cover = cover_of(distance, 0.62 * period * np.sqrt(need(sheet)) - 0.3, sheet.unit)
        return mix(painted, colour(painted, sheet), (depth * cover).astype(np.float32))

    return Element((*size, *words, "dotted"), paint)


def tiled(rng: np.random.Generator) -> Element:
    """Square tiles of one colour each, some with joints, some lit from a corner."""
    side = int(rng.choice((5, 6, 7, 8)))
    _, joint = pick(rng, DARK if rng.random() < 0.6 else LIGHT)
    kind, depth = rng.integers(3), rng.uniform(0.25, 0.8)

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        flat = mosaic(painted, round(side * sheet.unit))
        if kind == 0:
            return flat
        edge = -(-UNITS // side) * side // 2 - UNITS / 2
        y, x = ((place + edge) % side for place in sheet.places)
        near = np.clip(1.0 - np.minimum(y, x) + 0.5 / sheet.unit, 0, 1)
        far = np.clip(1.0 - side + np.maximum(y, x) + 0.5 / sheet.unit, 0, 1)
        if kind == 1:
            return mix(flat, joint, (depth * far).astype(np.float32))
        return mix(mix(flat, (1.0, 1.0, 1.0), 0.4 * depth * near), joint, (0.6 * depth * far).astype(np.float32))

    return Element((("fine",) if side < 6 else ("coarse",) if side > 7 else ()) + ("tiled",), paint)


def _ruled(rng: np.random.Generator, word: str, both_ways: bool) -> Element:
    """Even lines over everything, one way or both."""
    (direction, angle), (size, period) = draw_angle(rng), draw_period(rng, longest=11.0)
    words, colour = _ink(rng)
    width, depth = rng.uniform(0.4, 0.25 * period), rng.uniform(0.3, 0.8)
    angle = angle if not both_ways else float(rng.choice((0.0, np.pi / 4)))

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        cover = cover_of(sheet.waves(angle, period), width, sheet.unit)
        if both_ways:
            cover = np.maximum(cover, cover_of(sheet.waves(angle + np.pi / 2, period), width, sheet.unit))
        return mix(painted, colour(painted, sheet), (depth * cover).astype(np.float32))

    return Element((*size, *words, *(() if both_ways else (direction,)), word), paint)


def gridded(rng: np.random.Generator) -> Element:
    """A regular grid over everything."""
    return _ruled(rng, "gridded", both_ways=True)


def striped(rng: np.random.Generator) -> Element:
    """Even stripes over everything."""
    return _ruled(rng, "striped", both_ways=False)


def wavy(rng: np.random.Generator) -> Element:
    """Wave lines, heavier where it is darker."""
    (size, period), (words, colour) = draw_period(rng, longest=9.0), _ink(rng)
    need, depth = _need(rng), rng.uniform(0.6, 0.95)
    height, length, turned = rng.uniform(0.2, 0.4) * period, rng.uniform(9, 20), rng.random() < 0.5

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        y, x = sheet.places[::-1] if turned else sheet.places
        along = y + height * np.sin(2 * np.pi * x / length)
        distance = np.abs((along + period / 2) % period - period / 2)
        cover = cover_of(distance, 0.42 * period * need(sheet), sheet.unit)
        return mix(painted, colour(painted, sheet), (depth * cover).astype(np.float32))

    return Element((*size, *words, "wavy"), paint)


def grainy(rng: np.random.Generator) -> Element:
    """A rough ground that shows through: the same grain in every picture of the style."""
    depth, seed, soft = rng.uniform(0.06, 0.16), int(rng.integers(2**31)), int(rng.integers(1, 4))

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((UNITS, UNITS)).astype(np.float32)
        noise = np.kron(noise, np.ones((round(sheet.unit),) * 2, np.float32))
        noise = soften(noise, soft)
        return painted * (1 + depth * noise / noise.std())[..., None]

    return Element(("grainy",), paint)


def woven(rng: np.random.Generator) -> Element:
    """Threads both ways, as on cloth."""
    (size, period), depth = draw_period(rng, longest=8.0), rng.uniform(0.15, 0.4)
    width = rng.uniform(0.15, 0.3) * period

    def paint(painted: np.ndarray, sheet: Sheet) -> np.ndarray:
        gaps = [1 - depth * cover_of(sheet.waves(angle, period), width, sheet.unit) for angle in (0, np.pi / 2)]
        return painted * (gaps[0] * gaps[1])[..., None].astype(np.float32)

    return Element((*size, "woven"), paint)


TEXTURES: dict[Maker, float] = {
    hatched: 0.3, dotted: 0.19, tiled: 0.14, gridded: 0.07, striped: 0.08, wavy: 0.07, grainy: 0.08, woven: 0.07,
}  # fmt: skip
