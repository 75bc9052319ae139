"""Pictures as people have them, made into what every trainer reads alike: upright, 8 bits, opaque, RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from .errors import PairError, printable
from .images import DEEP_MODES, FORMATS, opened, orientation, upright

READ = (*FORMATS, "GIF")
TRAINER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Upright:
    """A decoded picture.

    Attributes:
        image: RGB, 8 bits, upright, opaque.
        changes: What had to be done to the file's picture; empty when every trainer reads the file alike as it is.
    """

    image: Image.Image
    changes: tuple[str, ...]


def open_upright(path: Path, background: str = "white") -> Upright:
    """Decodes a picture to its end.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF, AVIF or single-frame GIF file.
        background: Colour under transparent parts, a name or #rrggbb.

    Raises:
        PairError: Missing, empty, cut off, an animation, too large to be a picture, or of another format.
    """
    colour = background_colour(background)
    with opened(path, READ) as image:
        return _upright(path, image, colour)


def background_colour(name: str) -> tuple[int, int, int]:
    """RGB of a colour's name or #rrggbb.

    Raises:
        PairError: No colour has this name.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise PairError(f"--background {name[:40]!r}: no such colour; give a name like white, or #rrggbb") from None


def _upright(path: Path, image: Image.Image, background: tuple[int, int, int]) -> Upright:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("MPO", "TIFF"):  # a phone's MPO and a scan's TIFF carry previews behind
        raise PairError(f"{printable(path)}: an animation of {frames} pictures; save the one you want as PNG")
    changes: list[str] = []
    if path.suffix.lower() not in TRAINER_SUFFIXES:
        changes.append(f"{image.format} saved as PNG")
    if orientation(image) != 1:
        changes.append("turned upright as its EXIF says")
    image.load()
    image, deep = _eight_bits(upright(image), printable(path))
    image, layers = _opaque(image, background)
    changes += [change for change in (deep, layers) if change]
    return Upright(image, tuple(changes))


def _eight_bits(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    if image.mode not in DEEP_MODES:
        return image, ""
    values = np.nan_to_num(np.asarray(image, np.float64))
    # Pillow keeps 8 and 16 bits also in 32, and floats may be of 0 to 1 or hold whole numbers.
    tops = [top for top in (1.0, 255.0, 65535.0) if (top > 1 or image.mode == "F") and top >= values.max()]
    if not tops:
        raise PairError(f"{name}: has values above 65535; save it with 8 or 16 bits for a colour")
    eight = (np.clip(values / tops[0], 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(eight), "floats made 8 bits" if image.mode == "F" else "16 bits made 8"


def _opaque(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, str]:
    change = "palette made RGB" if image.mode == "P" else ""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        if np.asarray(layers)[..., 3].min() < 255:
            below = Image.new("RGBA", layers.size, (*background, 255))
            return Image.alpha_composite(below, layers).convert("RGB"), "transparent parts laid on the background"
        image, change = layers, change or "alpha channel, opaque everywhere, dropped"
    if image.mode not in ("RGB", "L", "P", "RGBA"):
        change = change or f"{image.mode} made RGB"
    return image.convert("RGB"), change
