"""Options that generate and restyle share, and the styles they name."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from pair_network.errors import PairError

from ..pipelines import Style

Value = TypeVar("Value")

# Lists of the styles group by option, with the field of Style and its value where the option is not given.
STYLE_LISTS = {
    "words": ("prompt_words", None),
    "scale": ("scale", 3.0),
    "start": ("start", 0.2),
    "end": ("end", 1.0),
    "multiplier": ("multiplier", 1.0),
}


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str
    dtype: str
    device: str
    low_memory: bool


@dataclass(frozen=True)
class StyleOptions(ModelOptions):
    """The options that ``make_parser`` adds."""

    style: list[str]
    words: list[str] | None
    scale: list[float] | None
    start: list[float] | None
    end: list[float] | None
    multiplier: list[float] | None
    cfg_end: float
    out: Path
    name: str | None


class Parser(argparse.ArgumentParser):
    """Reports a mistake as a PairError, so that every error looks alike."""

    def error(self, message: str) -> NoReturn:
        raise PairError(f"{self.prog}: {message}; --help lists the options")


def make_parser(verb: str, description: str, start: float = 0.2) -> Parser:
    """A parser with the model, style and output options; the verb adds its own.

    Args:
        start: Where a style begins unless the option says otherwise.
    """
    parser = Parser(prog=f"python -m pair_network {verb}", description=description, allow_abbrev=False)
    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="diffusers folder, hub name, or one .safetensors checkpoint")
    model.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="auto: fp16 on a GPU")
    model.add_argument("--device", default="auto", help="auto: cuda or mps where there is one, else cpu")
    model.add_argument(
        "--low_memory", action="store_true", help="offload models to the CPU; each style in a model call of its own"
    )
    style = parser.add_argument_group("styles (each list: one value for all styles, or one for each)")
    style.add_argument("--style", nargs="+", default=[], metavar="FILE", help="style LoRA files (.safetensors)")
    style.add_argument("--words", nargs="+", help="style words; default: the file's trigger words")
    style.add_argument("--scale", nargs="+", type=float, help="λ, style_guidance_scale (default 3)")
    style.add_argument("--start", nargs="+", type=float, help=f"where the style begins (default {start:g})")
    style.add_argument("--end", nargs="+", type=float, help="where it ends (default 1); 0: noise, 1: the picture")
    style.add_argument("--multiplier", nargs="+", type=float, help="strength of the LoRA itself (default 1)")
    parser.add_argument_group("style guidance").add_argument(
        "--cfg_end", type=number(0, 1), default=1.0,
        help="part of the noise schedule after which λ_cfg is 1: stronger styles, less of the prompt's own colours, "
        "cheaper steps (default 1: eq. 10 throughout)",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("outputs"), help="folder (default: outputs)")
    output.add_argument("--name", default=None, help="start of the file names (default: the verb)")
    return parser


def whole(low: int, high: int | None = None, unit: int = 1) -> Callable[[str], int]:
    """An option's type: a whole number from low to high, a multiple of unit."""

    def parse(text: str) -> int:
        value = int(text) if text.strip().lstrip("+-").isdecimal() else None
        if value is None or value < low or value % unit or (high is not None and value > high):
            kind = f"a multiple of {unit}" if unit > 1 else "a whole number"
            raise argparse.ArgumentTypeError(f"{text} is not {kind} {_range(low, high)}")
        return value

    return parse


def number(low: float, high: float | None = None) -> Callable[[str], float]:
    """An option's type: a finite number from low to high."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not a number {_range(low, high)}")
        return value

    return parse


def _range(low: float, high: float | None) -> str:
    return f"from {low} on" if high is None else f"from {low} to {high}"


def check_output(args: StyleOptions) -> None:
    """Finds out before the model is loaded.

    Raises:
        PairError: A place that pictures cannot be written to, or a name that is no file name.
    """
    if args.name is not None and (not args.name or Path(args.name).name != args.name):
        raise PairError(f"--name {args.name!r}: is the start of a file name; the folder goes into --out")
    nearest = next(folder for folder in (args.out.absolute(), *args.out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "may not be written to" if nearest.is_dir() else "is a file"
        raise PairError(f"--out {args.out}: {nearest} {reason}; name another folder")


def styles_of(args: StyleOptions, **changes: float) -> list[Style]:
    """The styles that the options name, ``changes`` (scale, multiplier) applied to all of them.

    Raises:
        PairError: A list is neither one value nor one for each style, a value is out of range, or there is no style.
    """
    stray = [name for name in STYLE_LISTS if getattr(args, name) is not None]
    stray += ["cfg_end"] if args.cfg_end != 1 else []
    if stray and not args.style:
        raise PairError(f"--{stray[0]} is of a style: name it with --style FILE")
    count = len(args.style)
    columns = {
        field: _per_style(name, [default] if getattr(args, name) is None else getattr(args, name), count)
        for name, (field, default) in STYLE_LISTS.items()
    }
    return [
        Style(file, **{**{field: column[i] for field, column in columns.items()}, **changes})
        for i, file in enumerate(args.style)
    ]


def _per_style(name: str, values: Sequence[Value], count: int) -> list[Value]:
    if len(values) not in (1, count):
        raise PairError(f"--{name} has {len(values)} values for {count} styles; give one, or one for each style")
    return list(values) * (count if len(values) == 1 else 1)
