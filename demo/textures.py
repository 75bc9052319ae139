"""Pictures for the autoencoder alone: gratings, dots, strokes, recoloured scenes, and styles in shuffled colours.

It must reproduce styles that nobody has thought of yet. Like the autoencoder of any real model it has met prints and
hatchings of every kind, the held-out operators' among them, though never in an operator's own colours; text encoder
and U-Net have met none of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from demo.styles import STYLES, UNITS, luminance, mosaic, outline, unit_of

# Share of pictures under a fine regular screen: the hardest thing for the autoencoder, which squeezes 4 x 4 pixels into
# one latent, and what most printed or woven styles are made of.
SCREEN_SHARE = 0.15
PERIODS = (3, 5, 6, 7, 8)  # units of 1/64 of the picture; not the autoencoder's own 4, see styles.py
STYLE_SHARE = 0.7


def random_texture(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """A random picture; some kinds keep the shapes of `scene` under it.

    Args:
        rng: source of every choice.
        scene: (size, size, 3) in [0, 1].

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    share = rng.random()
    if share < STYLE_SHARE:
        styles = tuple(STYLES.values())
        return shuffle_colours(rng, np.clip(styles[rng.integers(len(styles))](scene), 0, 1)).astype(np.float32)
    if share < STYLE_SHARE + SCREEN_SHARE:
        return np.clip(_screened(rng, scene), 0, 1).astype(np.float32)
    kind = rng.integers(5)
    if kind == 0:
        image = _strokes(rng, len(scene))
    elif kind == 1:
        image = _recoloured(rng, scene)
    elif kind == 2:
        image = _outlined(rng, scene)
    elif kind == 3:
        image = _patterned(rng, scene)
    else:
        image = _patterned(rng, _outlined(rng, _recoloured(rng, scene)))
    return np.clip(image, 0, 1).astype(np.float32)


def shuffle_colours(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Red, green and blue in another order, some of them inverted; never the picture as it was.

    Args:
        rng: source of the choice.
        image: (..., 3) in [0, 1].
    """
    order, inverted = rng.permutation(3), rng.random(3) < 0.3
    if (order == (0, 1, 2)).all() and not inverted.any():
        order = np.array([1, 2, 0])
    shuffled = image[..., order]
    return np.where(inverted, 1 - shuffled, shuffled)


def _strokes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines, ellipses and polygons in random colours."""
    picture = Image.new("RGB", (2 * size, 2 * size), tuple(rng.integers(256, size=3).tolist()))
    draw, unit = ImageDraw.Draw(picture), size / UNITS
    for _ in range(rng.integers(4, 16)):
        colour = tuple(rng.integers(256, size=3).tolist())
        points = [tuple(p) for p in rng.integers(0, 2 * size, (rng.integers(3, 5), 2)).tolist()]
        form = rng.integers(3)
        if form == 0:
            draw.line(points, fill=colour, width=round(unit * rng.integers(2, 9)))
        elif form == 1:
            draw.polygon(points, fill=colour)
        else:
            (x, y), radius = points[0], round(unit * rng.integers(4, 30))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(picture.reduce(2), np.float32) / 255


def _recoloured(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """The scene's brightness mapped to a random palette, smoothly or in steps."""
    palette = rng.random((rng.integers(2, 6), 3), dtype=np.float32)
    position = scene.mean(-1) * (len(palette) - 1)
    below = np.floor(position).astype(int).clip(0, len(palette) - 2)
    share = (position - below)[..., None]
    if rng.random() < 0.5:
        share = np.clip((share - 0.5) * 30 + 0.5, 0, 1)
    return palette[below] * (1 - share) + palette[below + 1] * share


def _outlined(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """The scene with outlines in a random colour."""
    cover = outline(scene, rng.uniform(0.05, 0.15), rng.uniform(0.05, 0.3))[..., None]
    return scene * (1 - cover) + rng.random(3) * cover


def _patterned(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """The scene under one or two gratings of random direction, period (3 to 10 units), sharpness and colour."""
    y, x = _places(len(scene)).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    # Half of them lie along an axis or a diagonal, as in drawn textures.
    period = rng.uniform(3, 10)
    if rng.random() < 0.5:
        angle, period = rng.integers(4) * np.pi / 4, float(rng.choice(PERIODS))
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + rng.uniform(0, 6.3))
    if rng.random() < 0.5:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    cover = np.clip(wave * rng.uniform(0.5, 4) + 0.5 + rng.uniform(-0.3, 0.3), 0, 1)
    if rng.random() < 0.5:
        cover = cover * np.clip(1.3 - scene.mean(-1), 0, 1)
    cover = (cover * rng.uniform(0.2, 0.9))[..., None]
    return scene * (1 - cover) + rng.random(3) * cover


def _screened(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """The scene, its blocks or a recoloured form of it printed through a screen of random shape and colours."""
    if rng.random() < 0.2:
        scene = _recoloured(rng, scene)
    if rng.random() < 0.4:
        scene = mosaic(scene, round(rng.choice(PERIODS) * unit_of(scene)))
    height = _screen(rng, len(scene))
    tone = luminance(scene) if rng.random() < 0.3 else 1 - luminance(scene)
    if rng.random() < 0.4:
        tone = np.full_like(tone, rng.uniform(0.2, 0.6))
    cover = np.clip((rng.uniform(0.7, 1.5) * tone - height) * rng.uniform(2, 12) + 0.5, 0, 1)
    cover = (cover * rng.uniform(0.25, 1.0))[..., None]
    if rng.random() < 0.4:
        cover = np.maximum(cover, outline(scene, rng.uniform(0.05, 0.15))[..., None])
    ink = rng.random(3) * rng.uniform(0, 1) if rng.random() < 0.6 else scene * rng.uniform(0.4, 1.1)
    paper = rng.uniform(0.75, 1, 3) if rng.random() < 0.5 else scene
    return paper * (1 - cover) + ink * cover


def _places(size: int) -> np.ndarray:
    """Places of the pixels in units, (2, size, size): y and x; at 64 px their indices."""
    return np.mgrid[0:size, 0:size] * (UNITS / size)


def _screen(rng: np.random.Generator, size: int) -> np.ndarray:
    """A regular screen, (size, size) in [0, 1] with all heights about equally frequent."""
    y, x = _places(size)
    period = int(rng.choice(PERIODS))
    shift_x, shift_y = rng.integers(0, 2 * period, 2) / 2
    if rng.random() < 0.3:  # turned by 45 degrees
        x, y = (x + y) / 1.5, (x - y) / 1.5
    dx = np.abs((x - shift_x + period / 2) % period - period / 2)
    dy = np.abs((y - shift_y + period / 2) % period - period / 2)
    diagonal = np.abs((x + rng.choice([-1, 1]) * y - shift_x) % period - period / 2)
    shapes = (np.hypot(dx, dy), np.maximum(dx, dy), np.minimum(dx, dy), dx, dy, diagonal, diagonal)
    height = shapes[rng.integers(len(shapes))]
    if rng.random() < 0.3:
        height = height.max() - height
    order = np.searchsorted(np.sort(height.flatten()), height, side="right")
    return order / height.size
