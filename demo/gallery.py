"""Several styles, each learnt from one pair, in one picture: `python -m demo.gallery`. Writes docs/gallery.png.

For each style what it was taught with, other subjects by style guidance, and below them the true answers. Trains the
styles whose LoRA is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from demo.__main__ import PROMPTS, beside, paint_guided, sample
from demo.model_config import load_pipeline
from demo.one_pair import OUTPUT_DIR, ROOT, pair_files, train_style_on_more
from demo.scenes import to_picture
from demo.styles import HELD_OUT_STYLES
from pair_network import PairError
from pair_network.images import open_image
from pair_network.sampling.pipelines import Style
from pair_network.sampling.previews import grid, save_picture

EXPLANATION = (
    "Every style was taught with one photo and one painting of it; the model was never shown it. True answer: the "
    "style's own function of the base model's picture."
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.gallery", description=__doc__)
    parser.add_argument(
        "--styles", nargs="+", choices=list(HELD_OUT_STYLES), default=["duotone", "pixel", "ink", "poster"]
    )
    parser.add_argument("--pair", default="house", help="which bundled picture")
    parser.add_argument("--loras", type=Path, default=OUTPUT_DIR, help="folder of STYLE.safetensors")
    parser.add_argument("--scale", type=float, default=1.5, help="style guidance scale")
    parser.add_argument("--start", type=float, default=Style.start, help="share of the steps without style guidance")
    parser.add_argument("--cfg_end", type=float, default=0.4, help="share of the steps with content CFG")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tile", type=int, default=160, help="side of a tile in pixels")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery.png")
    return parser.parse_args()


def gallery(args: argparse.Namespace) -> Image.Image:
    """The labelled picture."""
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    base = sample(pipe, PROMPTS, args.steps)
    taught: list[list[Image.Image | None]] = [[open_image(pair_files(args.styles[0], args.pair)[0])]]
    drawn, labels = [base], ["base model"]
    for style in args.styles:
        file = args.loras / f"{style}.safetensors"
        if not file.is_file() and train_style_on_more(style, args.pair, args.loras):
            raise PairError(f"{file}: its training failed")
        truth = [to_picture(HELD_OUT_STYLES[style](np.asarray(image, np.float32) / 255)) for image in base]
        drawn += [paint_guided(pipe, style, file, args), truth]
        labels += [f"{style}, guided", "true answer"]
        taught += [[open_image(pair_files(style, args.pair)[1])], [None]]
    columns = [prompt.split(" on ")[0].removeprefix("a photo of ") for prompt in PROMPTS]
    names = ["photo", *(name for style in args.styles for name in (style, ""))]
    return beside(grid(taught, ["taught with"], names, tile=args.tile), grid(drawn, columns, labels, tile=args.tile),
                  EXPLANATION)  # fmt: skip


def main() -> None:
    """Command line."""
    args = parse_arguments()
    save_picture(args.out, gallery(args))
    print(args.out)


if __name__ == "__main__":
    main()
