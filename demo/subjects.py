"""The ten things a scene can show, each drawn with polygons in a frame of its own.

A subject is drawn in the square [-1, 1] x [-1, 1], y downwards, standing on y = 1; the pen maps it into the picture.
To add a subject, write one function here and enter it in `SUBJECTS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

Point = tuple[float, float]
Colour = tuple[float, float, float]

DARK: Colour = (0.12, 0.12, 0.14)
WHITE: Colour = (0.96, 0.96, 0.95)
WOOD: Colour = (0.42, 0.27, 0.18)
GLASS: Colour = (0.72, 0.86, 0.96)
CREAM: Colour = (0.92, 0.88, 0.80)
GOLD: Colour = (1.0, 0.85, 0.3)
PINK: Colour = (0.95, 0.55, 0.6)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1, towards black) or lighter (factor > 1, towards white) than `colour`."""
    if factor <= 1:
        return tuple(c * factor for c in colour)  # type: ignore[return-value]
    return tuple(c + (1 - c) * (factor - 1) for c in colour)  # type: ignore[return-value]


@dataclass(frozen=True)
class Pen:
    """Draws in the subject's frame, on the picture and on its mask at once.

    Attributes:
        picture: RGB canvas.
        mask: one-channel canvas of the same size; whatever is drawn is set to 255.
        centre: where the frame's origin lies, in pixels of the canvas.
        scale: pixels per frame unit, (x, y); a negative x mirrors the subject.
        angle: rotation of the frame, in radians.
    """

    picture: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    centre: Point
    scale: Point
    angle: float

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        placed = []
        for x, y in points:
            x, y = x * self.scale[0], y * self.scale[1]
            placed.append((self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y))
        self.picture.polygon(placed, fill=tuple(round(255 * c) for c in colour))
        self.mask.polygon(placed, fill=255)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, corners: int = 22) -> None:
        """Fills an ellipse with centre (x, y)."""
        turns = [2 * math.pi * i / corners for i in range(corners)]
        self.polygon([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns], colour)

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """A stroke with square ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        half = width / 2 / math.hypot(dx, dy)
        nx, ny = -dy * half, dx * half
        corners = [(start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny)]
        self.polygon([*corners, (end[0] - nx, end[1] - ny), (start[0] - nx, start[1] - ny)], colour)


def draw_house(pen: Pen, colour: Colour) -> None:
    """Walls and a darker roof, a door and two windows."""
    pen.rectangle(-0.72, -0.15, 0.72, 1.0, colour)
    pen.polygon([(-0.98, -0.12), (0.0, -0.95), (0.98, -0.12)], shade(colour, 0.66))
    pen.rectangle(-0.16, 0.38, 0.2, 1.0, WOOD)
    pen.rectangle(-0.58, 0.18, -0.28, 0.52, GLASS)
    pen.rectangle(0.32, 0.18, 0.6, 0.52, GLASS)


def draw_tree(pen: Pen, colour: Colour) -> None:
    """A trunk and three balls of leaves."""
    pen.rectangle(-0.14, 0.1, 0.14, 1.0, WOOD)
    pen.ellipse(-0.42, -0.05, 0.42, 0.4, shade(colour, 0.8))
    pen.ellipse(0.42, 0.0, 0.42, 0.4, shade(colour, 0.7))
    pen.ellipse(0.0, -0.45, 0.52, 0.5, colour)
    pen.ellipse(-0.15, -0.55, 0.2, 0.2, shade(colour, 1.35))


def draw_car(pen: Pen, colour: Colour) -> None:
    """Seen from the side."""
    pen.polygon([(-0.6, 0.15), (-0.42, -0.38), (0.3, -0.38), (0.62, 0.15)], shade(colour, 0.85))
    pen.polygon([(-0.46, 0.12), (-0.34, -0.26), (-0.06, -0.26), (-0.06, 0.12)], GLASS)
    pen.polygon([(0.04, 0.12), (0.04, -0.26), (0.24, -0.26), (0.46, 0.12)], GLASS)
    pen.polygon([(-1.0, 0.2), (-0.9, 0.1), (0.85, 0.1), (1.0, 0.3), (1.0, 0.72), (-1.0, 0.72)], colour)
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.72, 0.28, 0.28, DARK)
        pen.ellipse(x, 0.72, 0.12, 0.12, (0.7, 0.7, 0.72))
    pen.ellipse(0.93, 0.38, 0.07, 0.09, GOLD, corners=10)


def draw_boat(pen: Pen, colour: Colour) -> None:
    """A coloured hull under two white sails."""
    pen.line((0.0, -1.0), (0.0, 0.5), 0.1, WOOD)
    pen.polygon([(-0.1, -0.9), (-0.1, 0.32), (-0.78, 0.32)], WHITE)
    pen.polygon([(0.1, -0.75), (0.1, 0.32), (0.62, 0.32)], shade(colour, 1.55))
    pen.polygon([(-1.0, 0.45), (1.0, 0.45), (0.68, 1.0), (-0.68, 1.0)], colour)
    pen.polygon([(-1.0, 0.45), (1.0, 0.45), (0.94, 0.57), (-0.94, 0.57)], shade(colour, 0.7))


def draw_fish(pen: Pen, colour: Colour) -> None:
    """In profile, with a tail, three fins and an eye."""
    pen.polygon([(-0.42, 0.1), (-1.0, -0.38), (-0.88, 0.1), (-1.0, 0.58)], shade(colour, 0.58))
    pen.polygon([(-0.2, -0.28), (0.1, -0.72), (0.4, -0.28)], shade(colour, 0.58))
    pen.polygon([(-0.1, 0.48), (0.0, 0.8), (0.25, 0.48)], shade(colour, 0.58))
    pen.ellipse(0.2, 0.1, 0.78, 0.46, colour)
    pen.polygon([(0.1, 0.12), (-0.22, 0.0), (-0.2, 0.34)], shade(colour, 1.4))
    pen.ellipse(0.62, -0.02, 0.15, 0.15, WHITE, corners=14)
    pen.ellipse(0.66, -0.02, 0.07, 0.08, DARK, corners=10)


def draw_flower(pen: Pen, colour: Colour) -> None:
    """Six petals on a green stem with two leaves."""
    green = (0.25, 0.55, 0.25)
    pen.line((0.0, -0.2), (0.0, 1.0), 0.12, green)
    pen.polygon([(0.0, 0.85), (0.45, 0.5), (0.3, 0.82)], green)
    pen.polygon([(0.0, 0.9), (-0.42, 0.62), (-0.26, 0.9)], shade(green, 0.8))
    for i in range(6):
        turn = math.pi * (i / 3 + 1 / 6)
        tone = colour if i % 2 else shade(colour, 0.84)
        pen.ellipse(0.4 * math.cos(turn), -0.4 + 0.4 * math.sin(turn), 0.28, 0.28, tone, corners=16)
    pen.ellipse(0.0, -0.4, 0.24, 0.24, GOLD, corners=16)


def draw_star(pen: Pen, colour: Colour) -> None:
    """Five points, every half of a point facing the light or away from it."""
    corners = []
    for i in range(10):
        turn, radius = math.pi * (i / 5 - 0.5), 1.0 if i % 2 == 0 else 0.42
        corners.append((radius * math.cos(turn), 0.06 + radius * math.sin(turn)))
    for i in range(10):
        tone = shade(colour, 1.12) if i % 2 else shade(colour, 0.74)
        pen.polygon([(0.0, 0.06), corners[i], corners[(i + 1) % 10]], tone)


def draw_mug(pen: Pen, colour: Colour) -> None:
    """A cylinder with coffee in it and an open handle made of strokes, so that the background shows through."""
    arc = [(-0.45 - 0.42 * math.sin(math.pi * i / 8), 0.1 - 0.42 * math.cos(math.pi * i / 8)) for i in range(9)]
    for start, end in itertools.pairwise(arc):
        pen.line(start, end, 0.17, shade(colour, 0.72))
    pen.polygon([(-0.5, -0.55), (0.85, -0.55), (0.82, 0.9), (0.6, 1.0), (-0.25, 1.0), (-0.47, 0.9)], colour)
    pen.ellipse(0.175, -0.55, 0.68, 0.2, shade(colour, 1.3))
    pen.ellipse(0.175, -0.53, 0.56, 0.14, (0.3, 0.18, 0.12))
    pen.rectangle(0.5, -0.15, 0.62, 0.7, shade(colour, 1.4))


def draw_cat(pen: Pen, colour: Colour) -> None:
    """A face: two ears, eyes with slits, muzzle and nose."""
    for side in (-1, 1):
        pen.polygon([(0.85 * side, 0.0), (0.78 * side, -0.98), (0.15 * side, -0.5)], shade(colour, 0.8))
        pen.polygon([(0.7 * side, -0.3), (0.68 * side, -0.74), (0.36 * side, -0.48)], PINK)
    pen.ellipse(0.0, 0.15, 0.92, 0.8, colour, corners=28)
    pen.ellipse(0.0, 0.55, 0.36, 0.28, shade(colour, 1.45))
    for side in (-1, 1):
        pen.ellipse(0.38 * side, 0.0, 0.2, 0.22, (0.95, 0.93, 0.6), corners=16)
        pen.ellipse(0.38 * side, 0.0, 0.08, 0.19, DARK, corners=12)
    pen.polygon([(-0.13, 0.36), (0.13, 0.36), (0.0, 0.54)], (0.85, 0.35, 0.42))


def draw_mushroom(pen: Pen, colour: Colour) -> None:
    """A domed cap with white dots on a pale stem."""
    pen.polygon([(-0.24, 0.0), (0.24, 0.0), (0.32, 1.0), (-0.32, 1.0)], CREAM)
    dome = [(0.98 * math.cos(math.pi * i / 14), 0.12 - 0.95 * math.sin(math.pi * i / 14)) for i in range(15)]
    pen.polygon([*dome, (-0.85, 0.24), (0.85, 0.24)], colour)
    pen.polygon([(-0.98, 0.1), (0.98, 0.1), (0.8, 0.27), (-0.8, 0.27)], shade(colour, 0.65))
    for x, y, radius in ((-0.5, -0.18, 0.16), (0.08, -0.52, 0.19), (0.55, -0.12, 0.15)):
        pen.ellipse(x, y, radius, radius, WHITE, corners=14)


SUBJECTS: dict[str, Callable[[Pen, Colour], None]] = {
    "house": draw_house,
    "tree": draw_tree,
    "car": draw_car,
    "boat": draw_boat,
    "fish": draw_fish,
    "flower": draw_flower,
    "star": draw_star,
    "mug": draw_mug,
    "cat": draw_cat,
    "mushroom": draw_mushroom,
}
