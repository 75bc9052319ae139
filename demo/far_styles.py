"""Held-out styles that are *far* from the family of `style_family.py`: made of elements which it lacks.

Each takes and gives (height, width, 3) float32 in [0, 1], draws nothing at random, and looks alike at every size.
"""

from __future__ import annotations

import numpy as np

from demo.style_family.sheet import Sheet, cover_of
from demo.styles import UNITS, Style, luminance, mix, saturate

ENAMEL_SEED, ENAMEL_CELLS = 5, 8
ISOLINES = 6


def blueprint(image: np.ndarray) -> np.ndarray:
    """A draughtsman's negative: white lines on blue, lights turned to darks, over a grid of two weights."""
    sheet = Sheet(image)
    blue = np.array([0.07, 0.22, 0.50], np.float32) + 0.16 * (1 - sheet.tone)[..., None]
    for period, width, depth in ((7.0, 0.5, 0.2), (28.0, 0.8, 0.4)):
        lines = [cover_of(sheet.waves(angle, period, 3.5), width, sheet.unit) for angle in (0, np.pi / 2)]
        blue = mix(blue, (0.70, 0.85, 1.0), (depth * np.maximum(*lines)).astype(np.float32))
    return np.clip(mix(blue, (0.95, 0.98, 1.0), sheet.lines(0.08, 0.14)), 0, 1).astype(np.float32)


def enamel(image: np.ndarray) -> np.ndarray:
    """Cloisonné: cells of one glossy colour each, of uneven shape, between golden wires."""
    sheet = Sheet(image)
    first, second, number = _cells(sheet)
    counts = np.bincount(number.ravel(), minlength=ENAMEL_CELLS**2)
    sums = [np.bincount(number.ravel(), image[..., i].ravel(), ENAMEL_CELLS**2) for i in range(3)]
    means = (np.stack(sums, -1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    gloss = 1.12 - 0.05 * first
    glass = np.clip(saturate(means[number], 1.7) * gloss[..., None], 0, 1)
    wire = cover_of((second - first) / 2, 0.8, sheet.unit)
    return np.clip(mix(glass, (0.85, 0.66, 0.25), wire.astype(np.float32)), 0, 1).astype(np.float32)


def _cells(sheet: Sheet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance in units to the nearest and the second nearest centre, and the nearest one's number: (height, width)."""
    y, x = sheet.places
    side = UNITS / ENAMEL_CELLS
    grid = (np.mgrid[0:ENAMEL_CELLS, 0:ENAMEL_CELLS].reshape(2, -1).T + 0.5) * side
    centres = grid + np.random.default_rng(ENAMEL_SEED).uniform(-0.36, 0.36, grid.shape) * side
    distances = np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1])
    nearest = np.partition(distances, 1, axis=-1)
    return nearest[..., 0].astype(np.float32), nearest[..., 1].astype(np.float32), distances.argmin(-1)


def ripple(image: np.ndarray) -> np.ndarray:
    """Seen through moving water: rows pushed aside in waves, with bright crests, in a green light."""
    sheet = Sheet(image)
    y, x = sheet.places
    phase = 2 * np.pi * y / 11 + 0.8 * np.sin(2 * np.pi * x / 40)
    pushed = np.clip(x + 2.6 * np.sin(phase), 0.5 / sheet.unit, UNITS - 0.5 / sheet.unit) * sheet.unit - 0.5
    left = np.minimum(pushed.astype(int), image.shape[1] - 2)
    rows = np.arange(image.shape[0])[:, None]
    moved = mix(image[rows, left], image[rows, left + 1], (pushed - left).astype(np.float32))
    wet = moved * np.array([0.72, 0.95, 0.92], np.float32)
    crest = np.clip(np.cos(phase) - 0.55, 0, 1)
    return np.clip(mix(wet, (0.93, 1.0, 0.98), crest.astype(np.float32)), 0, 1).astype(np.float32)


def contour(image: np.ndarray) -> np.ndarray:
    """A map: brown lines of equal brightness on land colours, every third one heavy."""
    sheet = Sheet(image)
    height = luminance(sheet.smooth(8))
    land = mix(np.broadcast_to(np.float32([0.55, 0.72, 0.50]), image.shape), (0.97, 0.93, 0.80), height)
    dy, dx = np.gradient(height, 1 / sheet.unit)
    slope = np.hypot(dy, dx) + 0.008
    for count, width in ((ISOLINES, 0.45), (ISOLINES / 3, 0.8)):
        away = np.abs((height * count + 0.5) % 1 - 0.5) / (count * slope)
        land = mix(land, (0.45, 0.27, 0.13), (0.9 * cover_of(away, width, sheet.unit)).astype(np.float32))
    return np.clip(land, 0, 1).astype(np.float32)


FAR_STYLES: dict[str, Style] = {"blueprint": blueprint, "enamel": enamel, "ripple": ripple, "contour": contour}
