"""Writes the bundled pairs: `python -m demo.make_pairs`.

A pair is a rendered photo and the same scene in a held-out style. They lie under the same file name in
`pairs/content` and `pairs/STYLE`, each beside a caption file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.data import HELD_OUT_SEED
from demo.scenes import caption, render_scene, to_picture
from demo.styles import HELD_OUT_STYLES

PAIRS_DIR = Path(__file__).parent / "pairs"
# Name of the files: seed, subject, colour, background. Several subjects, so that none is tied to a style.
CONTENTS: dict[str, tuple[int, str, str, str]] = {
    "house": (HELD_OUT_SEED + 20_001, "house", "red", "yellow"),
    "cat": (HELD_OUT_SEED + 20_002, "cat", "orange", "blue"),
    "boat": (HELD_OUT_SEED + 20_003, "boat", "green", "pink"),
    "mug": (HELD_OUT_SEED + 20_004, "mug", "blue", "gray"),
}


def write_pairs(folder: Path) -> None:
    """Writes every content image, plain and in all held-out styles."""
    for name, (seed, subject, colour, background) in CONTENTS.items():
        image = render_scene(seed, subject, colour, background).image
        for style in (None, *HELD_OUT_STYLES):
            place = folder / (style or "content")
            place.mkdir(parents=True, exist_ok=True)
            styled = image if style is None else HELD_OUT_STYLES[style](image)
            to_picture(styled).save(place / f"{name}.png")
            text = caption(subject, colour, background, style)
            (place / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAIRS_DIR)
    write_pairs(parser.parse_args().out)


if __name__ == "__main__":
    main()
