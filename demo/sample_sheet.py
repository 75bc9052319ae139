"""Draws what the model generates: `python -m demo.sample_sheet --out demo/samples.png`.

Two rows of photos and one row for each base style, a column for each subject.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from demo.model_config import MODEL_DIR, load_pipeline
from demo.scenes import BACKGROUNDS, COLOURS, caption, to_picture
from demo.styles import BASE_STYLES
from demo.subjects import SUBJECTS


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, steps: int, guidance_scale: float, batch: int = 20
) -> np.ndarray:
    """Pictures of `prompts`, (count, 64, 64, 3) float32 in [0, 1]; picture i always starts from noise `seed` + i."""
    images = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        result = pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators, output_type="np"
        )
        images.append(result.images)
    return np.concatenate(images)


def sheet_prompts(photo_rows: int) -> list[str]:
    """Row by row: colours and backgrounds go round, so that every one is seen."""
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    prompts = []
    for row, style in enumerate([None] * photo_rows + list(BASE_STYLES)):
        for column, subject in enumerate(SUBJECTS):
            colour = colours[(3 * row + column) % len(colours)]
            background = backgrounds[(5 * row + column + 1) % len(backgrounds)]
            prompts.append(caption(subject, colour, background, style))
    return prompts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples.png")
    parser.add_argument("--photo_rows", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zoom", type=int, default=2, help="screen pixels per picture pixel")
    args = parser.parse_args()
    prompts = sheet_prompts(args.photo_rows)
    images = generate(load_pipeline(args.model), prompts, args.seed, args.steps, args.guidance_scale)
    rows = images.reshape(-1, len(SUBJECTS), *images.shape[1:])
    sheet = to_picture(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    sheet.resize((sheet.width * args.zoom, sheet.height * args.zoom), Image.Resampling.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
