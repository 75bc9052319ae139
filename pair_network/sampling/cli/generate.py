"""``python -m pair_network generate``: pictures with style guidance, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

import torch
from PIL import Image

from pair_network.errors import PairError

from ..pipelines import Style, plain_lora, style_guidance
from ..previews import grid
from .infotext import infotext, lora_name, model_name, sampler_name, save_png, style_fields
from .models import default_cfg, load_pipeline, place, set_sampler
from .options import GenerateOptions, check_output
from .tasks import Task, check_pictures, styles_of, task_of

BASE, LORA, GUIDANCE = "base", "style LoRA", "style guidance"


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        label: Its column.
        row: Its row's label, "" in a sheet of one row.
        way: BASE, LORA or GUIDANCE.
        styles: What it is made with.
    """

    label: str
    row: str
    way: str
    styles: tuple[Style, ...] = ()


def run(args: GenerateOptions) -> list[Path]:
    """Makes and writes the pictures; returns their paths, sheets after the pictures they show.

    Raises:
        PairError: A mistake in the options, a file or the model.
    """
    cells = cells_of(args)
    check_pictures(args)
    check_output(args)
    pipe = load_pipeline(args)
    args = replace(args, cfg=default_cfg(pipe) if args.cfg is None else args.cfg)
    set_sampler(pipe, args.sampler)
    task = task_of(args, pipe)
    place(task.pipe, args)
    written: list[Path] = []
    number = next_number(args.out, args.name or "generate")
    for prompt in args.prompt:
        for seed in args.seed:
            stem = args.out / f"{args.name or 'generate'}_{number:04d}_{seed}"
            written += _shoot(args, task, cells, prompt, seed, stem)
            number += 1
    return written


def next_number(folder: Path, name: str) -> int:
    """First number that no picture of this name in the folder has, so that nothing is overwritten."""
    taken = [path.stem.removeprefix(f"{name}_").split("_")[0] for path in folder.glob(f"{escape(name)}_*.png")]
    return 1 + max((int(number) for number in taken if number.isdigit()), default=0)


def cells_of(args: GenerateOptions) -> list[Cell]:
    """The pictures to make of every prompt and seed.

    Raises:
        PairError: A sheet or an option of a style without a style, or two kinds of sheet at once.
    """
    is_grid = args.grid_scale is not None or args.grid_multiplier is not None
    if (is_grid or args.compare) and not args.style:
        raise PairError("--compare, --grid_scale and --grid_multiplier show a style: name it with --style FILE")
    if is_grid and args.compare:
        raise PairError("--compare and a grid are two sheets: make them one after the other")
    if args.compare:
        styles = tuple(styles_of(args))
        guided = f"{GUIDANCE}, λ {', '.join(f'{style.scale:g}' for style in styles)}"
        return [Cell(BASE, "", BASE), Cell(LORA, "", LORA, styles), Cell(guided, "", GUIDANCE, styles)]
    if is_grid:
        strengths: Sequence[float | None] = args.grid_multiplier or [None]
        scales: Sequence[float | None] = args.grid_scale or [None]
        return [
            Cell(
                "scale as given" if scale is None else f"scale {scale:g}",
                "" if strength is None else f"LoRA {strength:g}",
                GUIDANCE,
                tuple(styles_of(args, **_given(scale=scale, multiplier=strength))),
            )
            for strength in strengths
            for scale in scales
        ]
    styles = tuple(styles_of(args))
    return [Cell("", "", GUIDANCE if styles else BASE, styles)]


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _shoot(args: GenerateOptions, task: Task, cells: Sequence[Cell], prompt: str, seed: int, stem: Path) -> list[Path]:
    """All cells of one prompt and seed, each in a file of its own, and the sheet where there are several."""
    paths, images = [], []
    for index, cell in enumerate(cells):
        image = draw(task, cell, prompt, seed, joined=not args.low_memory, cfg_end=args.cfg_end)
        path = stem.with_name(stem.name + (f"_{index}" if len(cells) > 1 else "") + ".png")
        save_png(path, image, parameters(args, task, cell, prompt, seed, image))
        images.append(image)
        paths.append(path)
        print(path)
    if len(cells) > 1:
        columns = list(dict.fromkeys(cell.label for cell in cells))
        rows = [images[i : i + len(columns)] for i in range(0, len(images), len(columns))]
        labels = [label for label in dict.fromkeys(cell.row for cell in cells) if label]
        sheet = grid(rows, columns, labels, title=prompt, tile=max(256, *images[0].size))
        path = stem.with_name(stem.name + "_sheet.png")
        save_png(path, sheet, parameters(args, task, cells[-1], prompt, seed, images[-1]))
        paths.append(path)
        print(path)
    return paths


def draw(task: Task, cell: Cell, prompt: str, seed: int, joined: bool = True, cfg_end: float = 1.0) -> Image.Image:
    """One picture, from a private generator on the CPU, so that a seed means the same on every machine."""
    generator = torch.Generator("cpu").manual_seed(seed)
    if cell.way == GUIDANCE:
        with style_guidance(task.pipe, cell.styles, joined=joined, cfg_end=cfg_end):
            return task.draw(prompt, generator)
    if cell.way == LORA:
        words = " ".join(style.prompt_words or "" for style in cell.styles)
        with plain_lora(task.pipe, cell.styles):
            return task.draw(f"{prompt} {words}".strip(), generator)
    return task.draw(prompt, generator)


def parameters(args: GenerateOptions, task: Task, cell: Cell, prompt: str, seed: int, image: Image.Image) -> str:
    """The picture's infotext. A plain LoRA stands in the prompt, as the UIs write it."""
    fields: dict[str, object] = {
        "Steps": args.steps,
        "Sampler": sampler_name(task.pipe.scheduler),
        "CFG scale": args.cfg,
        "Seed": seed,
        "Size": f"{image.width}x{image.height}",
        "Model": model_name(args.model),
        "Denoising strength": args.strength if args.image else None,
        "CFG Rescale": args.guidance_rescale or None,
        "ControlNet": args.controlnet and f"{Path(args.controlnet).name}, weight {args.control_scale:g}",
    }
    if cell.way == GUIDANCE:
        fields |= style_fields(cell.styles, args.cfg_end)
    if cell.way == LORA:
        tags = "".join(f" {style.prompt_words} <lora:{lora_name(style)}:{style.multiplier:g}>" for style in cell.styles)
        prompt += tags
    return infotext(prompt, args.negative, fields)
