"""python -m demo: learns a style from the bundled pair and paints other subjects in it.

Everything a user of the real thing does: more pairs made out of the one, the same entry point and options, the saved
file loaded again, diffusers' own pipeline with style guidance. The last row is what only this model can show: the true
answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image, ImageDraw, ImageFont

from demo.model_config import MODEL_DIR, load_pipeline
from demo.one_pair import OUTPUT_DIR, ROOT, make_pairs, pair_files, style_words, train_style_on
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
EXPLANATION = (
    "The model was never shown this style. True answer: the style is a function of a picture, here applied to the base "
    "model's pictures; they are 64 pixels wide."
)


def main() -> int:
    args = parse_arguments()
    started = time.monotonic()
    content, style = pair_files(args.style, args.pair)
    print(f"1/3 the pair: {content.relative_to(ROOT)} and {style.relative_to(ROOT)}", flush=True)
    dataset = None if args.pair_alone else make_pairs(args.style, args.pair, args.output_dir)
    print(f"2/3 learning the style ({time.monotonic() - started:.0f} s so far)", flush=True)
    status = train_style_on(dataset, args.style, args.pair, args.output_dir, args.train)
    if status:
        return status
    print(f"3/3 painting other subjects ({time.monotonic() - started:.0f} s so far)", flush=True)
    picture = args.output_dir / "demo.png"
    save_picture(picture, paint(args, content, style))
    for file in (f"{args.style}.safetensors", f"{args.style}.pair.safetensors", picture.name):
        print(args.output_dir / file)
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Learn a style from one image pair and show it.")
    parser.add_argument("--style", choices=list(HELD_OUT_STYLES), default="duotone", help="which bundled style")
    pairs = sorted(path.stem for path in (ROOT / "demo/pairs/content").glob("*.png"))
    parser.add_argument("--pair", choices=pairs, default="house", help="which bundled picture")
    parser.add_argument("--pair_alone", action="store_true", help="make no further pairs out of it")
    parser.add_argument("--output_dir", type=Path, default=OUTPUT_DIR, help="folder for files and picture")
    parser.add_argument("--scale", type=float, default=1.5, help="style guidance scale (the paper's lambda_style)")
    parser.add_argument("--start", type=float, default=Style.start, help="share of the steps without style guidance")
    parser.add_argument(
        "--cfg_end", type=float, default=0.4, help="share of the steps after which the content CFG is 1"
    )
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further training options; comes last")
    return parser.parse_args()


def paint(args: argparse.Namespace, content: Path, style: Path) -> Image.Image:
    """The pair, and beside it every prompt by base model, style LoRA, style guidance and the true operator."""
    pipe = load_pipeline(MODEL_DIR)
    pipe.set_progress_bar_config(disable=True)
    file = str(args.output_dir / f"{args.style}.safetensors")
    words = style_words(args.style)
    base = sample(pipe, PROMPTS, args.steps)
    guided = paint_guided(pipe, args.style, Path(file), args)
    pipe.load_lora_weights(file)
    lora = sample(pipe, [f"{prompt} {words}" for prompt in PROMPTS], args.steps)
    truth = [to_picture(HELD_OUT_STYLES[args.style](np.asarray(image, np.float32) / 255)) for image in base]
    pair = grid([[open_image(content)], [open_image(style)]], ["taught with"], ["photo", "painting"], title="One pair")
    labels = ["base model", "style guidance", "the LoRA alone", "true answer"]
    columns = [prompt.split(" on ")[0].removeprefix("a photo of ") for prompt in PROMPTS]
    results = grid(
        [base, guided, lora, truth], columns, labels, title=f"Prompted: a photo of … on a … background, {words}"
    )
    return beside(pair, results, EXPLANATION)


def paint_guided(pipe: DiffusionPipeline, style: str, file: Path, args: argparse.Namespace) -> list[Image.Image]:
    """Every prompt with style guidance."""
    guide = Style(str(file), style_words(style), scale=args.scale, start=args.start)
    with style_guidance(pipe, guide, cfg_end=args.cfg_end):
        return sample(pipe, PROMPTS, args.steps)


def beside(left: Image.Image, right: Image.Image, text: str) -> Image.Image:
    """Two pictures side by side, a line between them, and a sentence below."""
    gap, foot = 24, 36
    sheet = Image.new("RGB", (left.width + right.width + 2 * gap, max(left.height, right.height) + foot), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 2 * gap, 0))
    draw = ImageDraw.Draw(sheet)
    draw.line([(left.width + gap, 8), (left.width + gap, sheet.height - foot)], (200, 200, 200), 2)
    draw.text((8, sheet.height - foot + 8), text, (30, 30, 30), ImageFont.load_default(size=16))
    return sheet


def sample(pipe: DiffusionPipeline, prompts: Sequence[str], steps: int) -> list[Image.Image]:
    """One picture for each prompt, from the same noise in every call."""
    generators = [torch.Generator().manual_seed(11 + number) for number in range(len(prompts))]
    result = pipe(list(prompts), num_inference_steps=steps, guidance_scale=GUIDANCE_SCALE, generator=generators)
    return result.images


if __name__ == "__main__":
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    sys.exit(run_main(lambda: reported(main, "close other programs")))
