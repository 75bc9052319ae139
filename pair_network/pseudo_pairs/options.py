"""The options of ``python -m pair_network pairs``; read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pair_network.options import Number, one_line, option, read
from pair_network.sampling.cli.options import ModelOptions

# A field with an option of each heading in --help.
of_pair, of_source, of_gate, of_output = (
    partial(option, group=name)
    for name in ("the pair", "the other pictures: a folder, or a model that draws them", "the check", "output")
)


@dataclass(frozen=True)
class PairsOptions(ModelOptions):
    """The options of the verb."""

    model: str = of_source("", "diffusers folder, hub name, or one .safetensors checkpoint, to draw them with")
    content: Path = of_pair(Path(), "the photo", Path, is_required=True)
    style: Path = of_pair(Path(), "the same picture in the style", Path, is_required=True)
    content_prompt: str = of_pair("", 'its caption, e.g. "a photo of a sbu dog"', one_line, is_required=True)
    style_prompt: str = of_pair(
        "", 'words added for the style, e.g. "in digital art style"', one_line, is_required=True
    )
    pictures: Path | None = of_source(None, "folder of pictures with a caption file (.txt) beside each", Path)
    prompts: Path | None = of_source(
        None, "text file, a prompt in each line, without the style words", Path, default="our own"
    )
    count: int = of_source(48, "how many pairs to make", Number(1, unit=1))
    resolution: int = of_source(512, "side of a square as large as they are, in pixels", Number(64, unit=1))
    seed: int = of_source(0, "of the first picture drawn", Number(0, unit=1))
    steps: int = of_source(30, "sampling steps", Number(1, unit=1))
    cfg: float | None = of_source(None, "λ_cfg", Number(0), default="5; FLUX 1")
    negative: str = of_source("", "negative prompt")
    limit: float = of_gate(0.42, "largest error on held-out blocks of the pair; 1: the photo unchanged", Number(0, 1))
    check_only: bool = of_gate(False, "print the errors and write nothing")
    out: Path | None = of_output(None, "new folder", Path)
    real_share: float = of_output(0.5, "of a run's samples that are the real pair", Number(0.01, 0.99))


def read_pairs(argv: Sequence[str]) -> PairsOptions:
    description = (
        "Fits the change from photo to painting by its pixels, checks it on held-out parts of the pair, makes it to "
        "other pictures, and writes a folder of pairs to train on."
    )
    return read("python -m pair_network pairs", description, PairsOptions, argv)
