"""Draws a contact sheet of scenes and styles: `python -m demo.scene_sheet --out demo/scenes.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from demo.scenes import render_scene, to_picture
from demo.styles import STYLES
from demo.subjects import SUBJECTS


def scene_sheet(photo_rows: int = 3) -> np.ndarray:
    """Rows of photos, then one row per style; one column per subject: (rows * 64, 640, 3) float32."""
    rows = []
    for row in range(photo_rows):
        rows.append([render_scene(100 * row + i, subject=name).image for i, name in enumerate(SUBJECTS)])
    rows += [[style(image) for image in rows[0]] for style in STYLES.values()]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scenes.png")
    parser.add_argument("--zoom", type=int, default=2, help="screen pixels per picture pixel")
    args = parser.parse_args()
    sheet = to_picture(scene_sheet())
    sheet.resize((sheet.width * args.zoom, sheet.height * args.zoom), Image.Resampling.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
