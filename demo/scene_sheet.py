"""Draws contact sheets to look at before a training.

`python -m demo.scene_sheet --out scenes.png` has scenes and every named style; with `--family 80` that many styles of
the endless family instead, each with its words under it.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo.far_styles import FAR_STYLES
from demo.scenes import SIZE, render_scene, to_picture
from demo.style_family import random_style
from demo.styles import STYLES
from demo.subjects import SUBJECTS

COLUMNS, TILE, LABEL = 10, 160, 40


def scene_sheet(photo_rows: int = 3, size: int = SIZE) -> np.ndarray:
    """Rows of photos, then one row per style; one column per subject: (rows * size, 10 * size, 3) float32."""
    rows = []
    for row in range(photo_rows):
        rows.append([render_scene(100 * row + i, subject=name, size=size).image for i, name in enumerate(SUBJECTS)])
    rows += [[style(image) for image in rows[0]] for style in (STYLES | FAR_STYLES).values()]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def family_sheet(count: int, size: int = SIZE) -> Image.Image:
    """`count` styles of the family, each on a scene of its own, with its words under it."""
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-count // COLUMNS) * (TILE + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for number in range(count):
        style = random_style(np.random.default_rng([number, 3]))
        picture = to_picture(style(render_scene(number, size=size).image))
        place = (number % COLUMNS * TILE, number // COLUMNS * (TILE + LABEL))
        sheet.paste(picture.resize((TILE - 4, TILE - 4), Image.Resampling.NEAREST), place)
        text = "\n".join(textwrap.wrap(" ".join(style.words), 27))
        draw.multiline_text((place[0], place[1] + TILE - 4), text, fill="black", font_size=11, spacing=1)
    return sheet


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scenes.png")
    parser.add_argument("--zoom", type=int, default=2, help="screen pixels per picture pixel, without --family")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the pictures, in pixels")
    parser.add_argument("--family", type=int, help="how many styles of the family to show")
    args = parser.parse_args()
    if args.family is not None:
        family_sheet(args.family, args.size).save(args.out)
        return
    sheet = to_picture(scene_sheet(size=args.size))
    sheet.resize((sheet.width * args.zoom, sheet.height * args.zoom), Image.Resampling.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
