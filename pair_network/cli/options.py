"""Options that generate and restyle share, and the styles they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import PairError
from ..pipelines import Style


class Parser(argparse.ArgumentParser):
    """Reports a mistake as a PairError, so that every error looks alike."""

    def error(self, message: str) -> NoReturn:
        raise PairError(f"{self.prog}: {message}; --help lists the options")


def make_parser(verb: str, description: str) -> Parser:
    """A parser with the model, style and output options; the verb adds its own."""
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
    style.add_argument("--words", nargs="+", default=[None], help="style words; default: the file's trigger words")
    style.add_argument("--scale", nargs="+", type=float, default=[3.0], help="λ, style_guidance_scale (default 3)")
    style.add_argument("--start", nargs="+", type=float, default=[0.2], help="style from this part of the schedule on")
    style.add_argument("--end", nargs="+", type=float, default=[1.0], help="style up to this part of the schedule")
    style.add_argument("--multiplier", nargs="+", type=float, default=[1.0], help="strength of the LoRA itself")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("outputs"), help="folder (default: outputs)")
    output.add_argument("--name", default=None, help="start of the file names (default: the verb)")
    return parser


def styles_of(args: argparse.Namespace, **changes: Any) -> list[Style]:
    """The styles that the options name, ``changes`` (scale, multiplier) applied to all of them.

    Raises:
        PairError: A list is neither one value nor one for each style, or a value is out of range.
    """
    count = len(args.style)
    names = {"words": "prompt_words", "scale": "scale", "start": "start", "end": "end", "multiplier": "multiplier"}
    columns = {field: _per_style(name, getattr(args, name), count) for name, field in names.items()}
    return [
        Style(file, **{**{field: column[i] for field, column in columns.items()}, **changes})
        for i, file in enumerate(args.style)
    ]


def _per_style(name: str, values: Sequence[Any], count: int) -> list[Any]:
    if len(values) not in (1, count):
        raise PairError(f"--{name} has {len(values)} values for {count} styles; give one, or one for each style")
    return list(values) * (count if len(values) == 1 else 1)
