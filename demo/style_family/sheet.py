"""What every element of a style is made with: named colours, the sheet that it reads, periods, angles, soft borders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from demo.styles import luminance, outline, soften, unit_of

Colour = tuple[float, float, float]
# An autoencoder of few channels smears what is drawn harder than this.
SOFTNESS = 1.5

DARK: dict[str, Colour] = {
    "navy": (0.12, 0.16, 0.42), "plum": (0.30, 0.08, 0.36), "maroon": (0.42, 0.08, 0.12), "forest": (0.06, 0.28, 0.16),
    "black": (0.07, 0.07, 0.09), "brown": (0.34, 0.20, 0.10), "indigo": (0.22, 0.14, 0.52), "slate": (0.24, 0.32, 0.38),
}  # fmt: skip
MIDDLE: dict[str, Colour] = {
    "crimson": (0.80, 0.14, 0.22), "rust": (0.78, 0.36, 0.14), "teal": (0.10, 0.55, 0.55), "olive": (0.50, 0.52, 0.18),
    "azure": (0.16, 0.52, 0.86), "magenta": (0.82, 0.22, 0.60), "violet": (0.52, 0.32, 0.80),
    "ochre": (0.84, 0.62, 0.20), "coral": (0.95, 0.48, 0.40), "jade": (0.20, 0.68, 0.45),
}  # fmt: skip
LIGHT: dict[str, Colour] = {
    "cream": (0.97, 0.93, 0.82), "mint": (0.70, 0.96, 0.80), "sky": (0.70, 0.87, 0.98), "rose": (0.98, 0.78, 0.82),
    "lemon": (0.99, 0.95, 0.58), "lilac": (0.85, 0.76, 0.96), "sand": (0.92, 0.80, 0.60), "ivory": (0.98, 0.97, 0.93),
    "peach": (0.99, 0.82, 0.68), "aqua": (0.62, 0.93, 0.93),
}  # fmt: skip
INKS = DARK | {name: MIDDLE[name] for name in ("crimson", "rust", "teal", "azure", "magenta", "violet", "jade")}
DIRECTIONS = ("level", "falling", "upright", "rising")


@dataclass(frozen=True)
class Sheet:
    """The photo that is restyled and what the elements read from it.

    Attributes:
        photo: (height, width, 3) float32 in [0, 1].
    """

    photo: np.ndarray

    @property
    def unit(self) -> float:
        """Pixels per unit of length."""
        return unit_of(self.photo)

    @cached_property
    def tone(self) -> np.ndarray:
        """Brightness, a little smoothed: (height, width) in [0, 1]."""
        return luminance(self.smooth(2))

    def smooth(self, times: int) -> np.ndarray:
        """The photo blurred as by `times` binomial kernels at one pixel a unit."""
        return soften(self.photo, times)

    def lines(self, threshold: float, softness: float) -> np.ndarray:
        """Where the colour changes sharply, one to two units wide: (height, width) in [0, 1]."""
        return outline(self.photo, threshold, softness)

    def waves(self, angle: float, period: float, shift: float = 0.0) -> np.ndarray:
        """Distance in units from the nearest of parallel lines, (height, width) in [0, period / 2].

        Args:
            angle: of the lines' normal, in radians from the x axis.
            period: of the lines, in units.
            shift: moves them, in units.
        """
        y, x = self.places
        along = x * np.cos(angle) + y * np.sin(angle) + shift
        return np.abs((along + period / 2) % period - period / 2)

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres in units: y (height, 1) and x (1, width)."""
        height, width = self.photo.shape[:2]
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) / self.unit for n in (height, width))
        return y[:, None], x[None, :]


Painter = Callable[[np.ndarray, Sheet], np.ndarray]


@dataclass(frozen=True)
class Element:
    """One trait of a style.

    Attributes:
        words: what a caption may say of it.
        paint: gives the picture (height, width, 3) with the trait, from the picture so far and the sheet.
    """

    words: tuple[str, ...]
    paint: Painter


Maker = Callable[[np.random.Generator], Element]


def pick(rng: np.random.Generator, table: dict[str, Colour]) -> tuple[str, np.ndarray]:
    """A named colour, a little off: its word and (3,) float32."""
    word = list(table)[rng.integers(len(table))]
    return word, np.clip(np.array(table[word]) + rng.uniform(-0.05, 0.05, 3), 0, 1).astype(np.float32)


def draw_period(
    rng: np.random.Generator, shortest: float = 4.4, longest: float = 10.0
) -> tuple[tuple[str, ...], float]:
    """A period in units, longer than the autoencoder's cell, and the word for it where it is fine or coarse."""
    period = rng.uniform(shortest, longest)
    return (("fine",) if period < 5 else ("coarse",) if period > 7.5 else ()), period


def draw_angle(rng: np.random.Generator) -> tuple[str, float]:
    """An angle of a normal in [0, pi), half of the time along an axis or a diagonal, and the lines' direction word."""
    angle = rng.integers(4) * np.pi / 4 if rng.random() < 0.5 else rng.uniform(0, np.pi)
    # A normal along x belongs to upright lines; one along y to level ones.
    return DIRECTIONS[(round(angle / np.pi * 4) + 2) % 4], float(angle)


def cover_of(distance: np.ndarray, half_width: np.ndarray | float, unit: float) -> np.ndarray:
    """1 within `half_width` units of a line, 0 beyond, with borders `SOFTNESS` pixels wide: no stairs.

    Args:
        distance: from the line, in units.
        half_width: of the line, in units.
        unit: pixels per unit.
    """
    return np.clip((half_width - distance) * unit / SOFTNESS + 0.5, 0, 1)
