"""Photo-like scenes drawn by code, with their subject's mask and their captions.

A scene is one subject in one colour on one background; place, size, light and grain vary with the seed. The mask is the
ground truth that lets a bench score subject and background apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from demo.subjects import SUBJECTS, Colour, Pen

SIZE = 64
SUPERSAMPLING = 3

COLOURS: dict[str, Colour] = {
    "red": (0.86, 0.16, 0.15),
    "orange": (0.95, 0.55, 0.12),
    "yellow": (0.96, 0.87, 0.16),
    "green": (0.20, 0.66, 0.27),
    "blue": (0.20, 0.42, 0.90),
    "purple": (0.52, 0.20, 0.72),
    "pink": (0.97, 0.48, 0.68),
    "white": (0.95, 0.95, 0.95),
}
BACKGROUNDS: dict[str, Colour] = {
    "yellow": (0.94, 0.88, 0.56),
    "blue": (0.46, 0.68, 0.94),
    "purple": (0.66, 0.56, 0.84),
    "pink": (0.96, 0.76, 0.78),
    "green": (0.50, 0.72, 0.52),
    "gray": (0.64, 0.65, 0.67),
}
# Words trained to mean nothing: one to name a subject with, and style names that no picture follows.
NONCE_SUBJECT = "sbu"
NONCE_STYLES = ("nova", "zeta", "kilo")


@dataclass(frozen=True)
class Scene:
    """A drawn scene and what is in it.

    Attributes:
        image: (size, size, 3) float32 in [0, 1].
        mask: (size, size) float32 in [0, 1], the share of each pixel that the subject covers.
        subject: a key of `SUBJECTS`.
        colour: a key of `COLOURS`.
        background: a key of `BACKGROUNDS`.
    """

    image: np.ndarray
    mask: np.ndarray
    subject: str
    colour: str
    background: str

    def caption(self) -> str:
        """The full caption, e.g. "a photo of a red house on a blue background"."""
        return caption(self.subject, self.colour, self.background)


def caption(subject: str, colour: str, background: str, style: str | None = None) -> str:
    """What a scene is called; `style` adds "in STYLE style"."""
    suffix = f" in {style} style" if style else ""
    return f"a photo of {_article(colour)} {colour} {subject} on a {background} background{suffix}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def training_caption(
    rng: np.random.Generator,
    subject: str,
    colour: str,
    background: str,
    style: str | None = None,
    unused_styles: tuple[str, ...] = (),
) -> str:
    """A caption as the base model meets it: mostly full, sometimes short, sometimes with a word that means nothing.

    8 % are short ("a red house"), 6 % leave the background out, 12 % carry a nonce word before the subject, and 15 % of
    the plain photos claim a style that the picture does not have. Half of the nonce words are random letters, so that
    an unknown word, which the tokenizer spells, is no surprise to the model either.

    Args:
        rng: source of the choices.
        subject: a key of `SUBJECTS`.
        colour: a key of `COLOURS`.
        background: a key of `BACKGROUNDS`.
        style: the base style that was applied, None for a photo.
        unused_styles: further style words to be trained as meaningless; no picture in these styles is ever shown.
    """
    nonce = ""
    if rng.random() < 0.12:
        nonce = f"{NONCE_SUBJECT if rng.random() < 0.5 else _random_word(rng)} "
    if style is None and rng.random() < 0.15:
        words = (*NONCE_STYLES, *NONCE_STYLES, *unused_styles, _random_word(rng))
        style = words[rng.integers(len(words))]
    suffix = f" in {style} style" if style else ""
    thing = f"{nonce}{colour} {subject}"
    form = rng.random()
    if form < 0.08:
        return f"{_article(thing)} {thing}{suffix}"
    if form < 0.14:
        return f"a photo of {_article(thing)} {thing}{suffix}"
    return f"a photo of {_article(thing)} {thing} on a {background} background{suffix}"


def _random_word(rng: np.random.Generator) -> str:
    return "".join(chr(ord("a") + letter) for letter in rng.integers(26, size=rng.integers(3, 7)))


def render_scene(
    seed: int,
    subject: str | None = None,
    colour: str | None = None,
    background: str | None = None,
    size: int = SIZE,
) -> Scene:
    """Draws one scene; what is not given is chosen by the seed. The same arguments give the same pixels.

    Args:
        seed: decides everything that is not given: place, size, slant, light, grain.
        subject: a key of `SUBJECTS`.
        colour: a key of `COLOURS`.
        background: a key of `BACKGROUNDS`.
        size: side of the square picture, in pixels.
    """
    rng = np.random.default_rng(seed)
    # Drawn even when given, so that naming the subject does not move it.
    drawn = [list(table)[rng.integers(len(table))] for table in (SUBJECTS, COLOURS, BACKGROUNDS)]
    subject, colour, background = subject or drawn[0], colour or drawn[1], background or drawn[2]
    radius = rng.uniform(0.26, 0.34)
    centre = (0.5 + rng.uniform(-0.12, 0.12), 0.5 + rng.uniform(-0.06, 0.08))
    light = rng.uniform(-1, 1)

    paint, mask = _draw_subject(rng, subject, colour, centre, radius, size)
    paint *= _slope(size, light, 0.14)
    scenery = _draw_background(rng, background, centre, radius, size) * _slope(size, light, 0.05)
    image = scenery * (1 - mask[..., None]) + paint
    image += _grain(rng, size, 0.009)
    return Scene(np.clip(image, 0, 1).astype(np.float32), mask, subject, colour, background)


def _draw_subject(
    rng: np.random.Generator, subject: str, colour: str, centre: tuple[float, float], radius: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The subject on black, so already weighted by its cover, and the cover: (size, size, 3) and (size, size)."""
    side = size * SUPERSAMPLING
    picture, mask = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    stretch = rng.uniform(0.92, 1.08)
    mirror = -1 if rng.random() < 0.5 else 1
    pen = Pen(
        picture=ImageDraw.Draw(picture),
        mask=ImageDraw.Draw(mask),
        centre=(centre[0] * side, centre[1] * side),
        scale=(mirror * radius * side * stretch, radius * side / stretch),
        angle=rng.uniform(-0.06, 0.06),
    )
    tint = np.clip(np.array(COLOURS[colour]) + rng.uniform(-0.035, 0.035, 3), 0, 1)
    SUBJECTS[subject](pen, tuple(tint))
    paint = np.asarray(picture.reduce(SUPERSAMPLING), np.float32) / 255
    return paint, np.asarray(mask.reduce(SUPERSAMPLING), np.float32) / 255


def _draw_background(
    rng: np.random.Generator, background: str, centre: tuple[float, float], radius: float, size: int
) -> np.ndarray:
    """Wall, floor and the subject's contact shadow: (size, size, 3)."""
    y, x = _grid(size)
    tint = np.array(BACKGROUNDS[background]) + rng.uniform(-0.03, 0.03, 3)
    horizon = centre[1] + radius * rng.uniform(0.55, 0.9)
    floor = np.clip((y - horizon) * size + 0.5, 0, 1)
    wall_tone = 1.06 - 0.16 * y
    floor_tone = 0.74 + 0.16 * (y - horizon)
    tone = wall_tone * (1 - floor) + floor_tone * floor
    foot = centre[1] + radius * 0.98
    shadow = np.exp(-(((x - centre[0]) / (radius * 1.05)) ** 2) - ((y - foot) / (radius * 0.2)) ** 2)
    tone = tone * (1 - 0.4 * shadow)
    return tone[..., None] * tint.astype(np.float32)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as y (size, 1) and x (1, size), in [0, 1]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[:, None], line[None, :]


def _slope(size: int, light: float, depth: float) -> np.ndarray:
    """Brightness falling away from a light at the upper left (light < 0) or right (> 0): (size, size, 1) around 1."""
    y, x = _grid(size)
    return (1 + depth * (light * (2 * x - 1) - 0.6 * (2 * y - 1)))[..., None]


def _grain(rng: np.random.Generator, size: int, depth: float) -> np.ndarray:
    """Soft noise without colour: (size, size, 1), standard deviation `depth`."""
    noise = rng.standard_normal((size, size), dtype=np.float32)
    noise = noise + np.roll(noise, 1, 0)
    noise = noise + np.roll(noise, 1, 1)
    return (noise * (depth / 2))[..., None]


def to_picture(image: np.ndarray) -> Image.Image:
    """A float image in [0, 1] as an 8-bit picture."""
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
