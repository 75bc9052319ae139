"""``python -m pair_network pairs``: many training pairs out of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pair_network.errors import UNFIT, PairError
from pair_network.images import list_images, open_image
from pair_network.reading import read_prompt_lines, read_text
from pair_network.sampling.cli.models import default_cfg, load_pipeline, place, set_sampler
from pair_network.training.pairs import check_pair

from .folder import DATASET, MadePair, check_empty, write_pairs
from .gate import Trial, best, try_maps, with_details
from .options import PairsOptions
from .prompts import PROMPTS

MULTIPLE = 8
CAPTION = ".txt"


class StyleNotReproduced(PairError):
    """No map of pixels comes near enough to the style."""


def main(args: PairsOptions) -> int:
    """``run`` with an exit status: UNFIT where the style is none that a map of pixels reproduces."""
    try:
        run(args)
    except StyleNotReproduced as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return UNFIT
    return 0


def run(args: PairsOptions) -> Path | None:
    """Writes the folder of pairs and returns it; None with --check_only.

    Raises:
        PairError: A mistake in the options or files.
        StyleNotReproduced: No map comes near to the style.
    """
    _check(args)
    content, style = read_pair(args.content, args.style, args.resolution)
    trials = try_maps(content, style)
    chosen = with_details(best(trials), content, style)
    print(report(trials, chosen), flush=True)
    if args.check_only or args.out is None:
        return None
    if not chosen.blocks <= args.limit:
        raise StyleNotReproduced(
            f"{args.style}: on held-out blocks of the pair the best map is {chosen.blocks:.2f} of the change away from "
            f"the style (--limit {args.limit:g}); train on the pair alone"
        )
    made = [
        MadePair(picture, to_image(chosen.style_map(to_tensor(picture))), caption)
        for picture, caption in pictures(args)
    ]
    write_pairs(
        args.out,
        (args.content, args.style),
        args.content_prompt,
        args.style_prompt,
        made,
        args.resolution,
        args.real_share,
    )
    print(f"{args.out}: {len(made)} pairs beside the real one; look at sheet.png, then train with\n"
          f"  --dataset_config {(args.out / DATASET).as_posix()} --style_prompt \"{args.style_prompt}\"")  # fmt: skip
    return args.out


def _check(args: PairsOptions) -> None:
    """Finds mistakes before anything is computed."""
    if bool(args.pictures) == bool(args.model) and not args.check_only:
        raise PairError("give either --pictures FOLDER, or a --model to draw them with")
    if args.prompts:
        read_prompt_lines(args.prompts, "--prompts")
    if args.pictures:
        for picture in list_images(args.pictures):
            _caption(picture)
    if not args.check_only:
        if args.out is None:
            raise PairError("--out is missing: name a new folder for the pairs")
        check_empty(args.out)


def report(trials: Sequence[Trial], chosen: Trial) -> str:
    """The errors of all maps, and of the one that is taken, which may have details that none of them had."""
    lines = ["error on held-out parts of the pair (0: the style, 1: the photo unchanged):"]
    for trial in (*trials, *(() if any(trial is chosen for trial in trials) else (chosen,))):
        mark = "  <- taken" if trial is chosen else ""
        lines.append(f"  {trial.style_map.name:24} blocks {trial.blocks:.2f}  colours {trial.colours:.2f}{mark}")
    return "\n".join(lines)


def read_pair(content: Path, style: Path, resolution: int) -> tuple[Tensor, Tensor]:
    """Both images, (3, height, width) in [0, 1], at the size that pictures have.

    Raises:
        PairError: Unreadable images, or two shapes.
    """
    check_pair(content, style)
    first, second = resized(open_image(content), resolution), open_image(style)
    if second.size != first.size:
        second = second.resize(first.size, Image.Resampling.LANCZOS)
    return to_tensor(first), to_tensor(second)


def resized(picture: Image.Image, resolution: int) -> Image.Image:
    """The picture with the area of a square of that side, in multiples of 8 pixels."""
    factor = resolution / (picture.width * picture.height) ** 0.5
    width, height = (max(MULTIPLE, round(side * factor / MULTIPLE) * MULTIPLE) for side in picture.size)
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)


def to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


def pictures(args: PairsOptions) -> Iterator[tuple[Image.Image, str]]:
    """The other pictures and their captions: from the folder, or drawn by the model."""
    if args.pictures:
        for path in list_images(args.pictures)[: args.count]:
            yield resized(open_image(path), args.resolution), _caption(path)
        return
    pipe = load_pipeline(args)
    set_sampler(pipe, None)
    place(pipe, args)
    scale = default_cfg(pipe) if args.cfg is None else args.cfg
    name = "true_cfg_scale" if type(pipe).__name__.startswith("Flux") else "guidance_scale"
    settings: dict[str, object] = {"num_inference_steps": args.steps, name: scale}
    if scale > 1:
        settings["negative_prompt"] = args.negative
    prompts = PROMPTS if args.prompts is None else read_prompt_lines(args.prompts, "--prompts")
    side = max(MULTIPLE, args.resolution // MULTIPLE * MULTIPLE)
    for i in range(args.count):
        prompt = prompts[i % len(prompts)]
        generator = torch.Generator("cpu").manual_seed(args.seed + i)
        picture = pipe(prompt=prompt, width=side, height=side, generator=generator, **settings).images[0]
        print(f"drawn {i + 1} of {args.count}", end="\r", flush=True)
        yield picture.convert("RGB"), prompt


def _caption(picture: Path) -> str:
    file = picture.with_suffix(CAPTION)
    text = read_text(file).strip() if file.is_file() else ""
    if not text:
        raise PairError(f"--pictures: {picture} has no caption; write what it shows to {file.name} beside it")
    return text.splitlines()[0]
