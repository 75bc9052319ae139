"""python -m demo: trains a style LoRA on the bundled pair and paints other subjects with it.

Everything a user of the real thing does: the same entry point and options, the saved file loaded again, diffusers'
own pipeline with style guidance. The last row is what only this model can show: the true answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from demo.model_config import MODEL_DIR, load_pipeline
from demo.one_pair import OUTPUT_DIR, ROOT, pair_files, style_words, train_style
from demo.scenes import to_picture
from demo.styles import HELD_OUT_STYLES
from pair_network.errors import reported
from pair_network.images import open_image
from pair_network.sampling.pipelines import Style, style_guidance
from pair_network.sampling.previews import grid, save_picture
from pair_network.signals import run_main

PROMPTS = (
    "a photo of a green tree on a blue background",
    "a photo of a blue fish on a yellow background",
    "a photo of a purple mug on a gray background",
    "a photo of an orange cat on a blue background",
    "a photo of a red flower on a green background",
    "a photo of a yellow boat on a pink background",
)
GUIDANCE_SCALE = 3.0


def main() -> int:
    args = parse_arguments()
    started = time.monotonic()
    content, style = pair_files(args.style, args.pair)
    print(f"1/2 learning the style of {style.relative_to(ROOT)} from one pair", flush=True)
    status = train_style(args.style, args.pair, args.output_dir, args.train)
    if status:
        return status
    trained = time.monotonic()
    print(f"2/2 painting other subjects (trained in {trained - started:.0f} s)", flush=True)
    picture = args.output_dir / "demo.png"
    save_picture(picture, paint(args, content, style))
    for file in (f"{args.style}.safetensors", f"{args.style}.pair.safetensors", picture.name):
        print(args.output_dir / file)
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Learn a style from one image pair and show it.")
    parser.add_argument("--style", choices=list(HELD_OUT_STYLES), default="ink", help="which bundled style")
    pairs = sorted(path.stem for path in (ROOT / "demo/pairs/content").glob("*.png"))
    parser.add_argument("--pair", choices=pairs, default="house", help="which bundled picture")
    parser.add_argument("--output_dir", type=Path, default=OUTPUT_DIR, help="folder for files and picture")
    parser.add_argument("--scale", type=float, default=1.5, help="style guidance scale (the paper's lambda_style)")
    parser.add_argument("--start", type=float, default=0.1, help="share of the steps without style guidance")
    parser.add_argument("--steps", type=int, default=30, help="sampling steps")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further training options; comes last")
    return parser.parse_args()


def paint(args: argparse.Namespace, content: Path, style: Path) -> Image.Image:
    """The labelled grid: the pair, and every prompt by base model, style LoRA, style guidance and the true operator."""
    pipe = load_pipeline(MODEL_DIR)
    pipe.set_progress_bar_config(disable=True)
    file = str(args.output_dir / f"{args.style}.safetensors")
    words = style_words(args.style)
    base = sample(pipe, PROMPTS, args.steps)
    with style_guidance(pipe, Style(file, words, scale=args.scale, start=args.start)):
        guided = sample(pipe, PROMPTS, args.steps)
    pipe.load_lora_weights(file)
    lora = sample(pipe, [f"{prompt} {words}" for prompt in PROMPTS], args.steps)
    truth = [to_picture(HELD_OUT_STYLES[args.style](np.asarray(image, np.float32) / 255)) for image in base]
    pair = [open_image(content), open_image(style)]
    rows = [[pair[0], *base], [pair[1], *lora], [None, *guided], [None, *truth]]
    labels = ["base model", "style LoRA", f"style guidance {args.scale:g}", "true answer"]
    columns = ["the pair", *(prompt.split(" on ")[0].removeprefix("a photo of ") for prompt in PROMPTS)]
    return grid(rows, columns, labels, title=f"One pair (left) taught “{words}”; the model was never shown this style")


def sample(pipe: Any, prompts: Sequence[str], steps: int) -> list[Image.Image]:
    """One picture for each prompt, from the same noise in every call."""
    generators = [torch.Generator().manual_seed(11 + number) for number in range(len(prompts))]
    result = pipe(list(prompts), num_inference_steps=steps, guidance_scale=GUIDANCE_SCALE, generator=generators)
    return result.images


if __name__ == "__main__":
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    sys.exit(run_main(lambda: reported(main, "close other programs")))
