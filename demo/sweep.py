"""Strength and λ in one labelled picture: `python -m demo.sweep`. Writes docs/sweep.png.

Columns are λ of style guidance, rows the strength of the LoRA, the last column what perfect styling would give: the
held-out style's own function, applied to the base picture. Trains the bundled pair first where its LoRA is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo.model_config import load_pipeline
from demo.one_pair import ONE_PAIR_DIR, ROOT, style_file, style_words
from demo.scenes import to_picture
from demo.styles import HELD_OUT_STYLES
from pair_network.sampling.pipelines import Style, style_guidance
from pair_network.sampling.previews import grid, save_picture

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
STRENGTHS = (0.5, 1.0, 1.5)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", choices=list(HELD_OUT_STYLES), default="ink", help="which bundled style")
    parser.add_argument("--loras", type=Path, default=ONE_PAIR_DIR, help="folder of STYLE.safetensors")
    parser.add_argument("--prompt", default="a photo of an orange cat on a blue background")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES, help="columns: λ")
    parser.add_argument("--strengths", nargs="+", type=float, default=STRENGTHS, help="rows: strength of the LoRA")
    parser.add_argument("--start", type=float, default=Style.start, help="share of the steps without style guidance")
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--tile", type=int, default=192, help="side of a tile in pixels")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "sweep.png")
    return parser.parse_args()


def draw(pipe: Any, args: argparse.Namespace, style: Style) -> Image.Image:
    """One picture of the prompt; every one starts from the same noise."""
    generator = torch.Generator().manual_seed(args.seed)
    with style_guidance(pipe, style):
        return pipe(args.prompt, num_inference_steps=args.steps, guidance_scale=args.cfg, generator=generator).images[0]


def sweep(pipe: Any, args: argparse.Namespace, file: Path) -> Image.Image:
    """The labelled grid."""
    words = style_words(args.style)
    base = draw(pipe, args, Style(str(file), words, scale=0.0))
    truth = to_picture(HELD_OUT_STYLES[args.style](np.asarray(base, np.float32) / 255))
    rows: list[list[Image.Image | None]] = []
    for strength in args.strengths:
        styles = [Style(str(file), words, scale, args.start, 1.0, strength) for scale in args.scales]
        # λ 0 is the base picture whatever the strength.
        row = [draw(pipe, args, style) if style.scale else base for style in styles]
        rows.append([*row, truth if not rows else None])
    # Pillow's own font has no λ.
    columns = [f"scale {scale:g}" if scale else "scale 0: base" for scale in args.scales]
    labels = [f"strength {strength:g}" for strength in args.strengths]
    return grid(rows, [*columns, "true answer"], labels, title=f"{args.prompt} · {words}", tile=args.tile)


def main() -> None:
    """Command line."""
    args = parse_arguments()
    file = style_file(args.style, args.loras)
    save_picture(args.out, sweep(load_pipeline(), args, file))
    print(args.out)


if __name__ == "__main__":
    main()
