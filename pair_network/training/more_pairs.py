"""``train --more_pairs N``: the verb pairs before a training, in a process of its own that leaves no memory behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pair_network import starting
from pair_network.errors import UNFIT, PairError
from pair_network.images import caption_file
from pair_network.reading import read_text

from .check.run import is_small
from .one_command import Given
from .options import NOT_ON_MUSUBI
from .pair_dataset import DATASET
from .prepare import first_line
from .presets import free_gpu_memory

# A model that trains in a minute must not draw for longer; the pictures that pairs are made of need not be fine.
SMALL_MODEL = ("--steps", "8", "--cfg", "3")
SMALL_CARD = 12.0  # GiB: below it the models take turns on the card


@dataclass(frozen=True)
class MorePairs:
    """How many pairs are made out of the one, and what they show.

    Attributes:
        count: 0 for none.
        prompts: A text file, a prompt in each line; None for our own.
    """

    count: int = 0
    prompts: Path | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise PairError(f"--more_pairs {self.count}: a number of pairs, for example 24")
        if self.prompts is not None and not self.count:
            raise PairError("--more_prompts is for --more_pairs N; give that too")


def made(host: str, given: Given, wanted: MorePairs) -> list[str]:
    """The options that a training gets: ``--made_pairs DIR``, or none where the style cannot be reproduced so.

    Pairs that an earlier run made of the same pictures, model and prompts are taken again.

    Args:
        host: The trainer that gets them.
        given: What command line and config file say of the training.
        wanted: How many pairs, and of what.

    Raises:
        PairError: Something that the verb needs is missing, or there are pairs enough.
        SystemExit: The verb failed and has said why.
    """
    if host == "musubi":
        raise PairError(f"--more_pairs: {NOT_ON_MUSUBI}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PairError("--more_pairs is made by one process: make them first (run.py pairs), then --made_pairs DIR")
    options = options_of(given, wanted)
    folder = Path(given.output_dir or ".") / f"{given.output_name or 'last'}-made-{digest(given, wanted, options)}"
    if (folder / DATASET).is_file():
        print(f"{folder}: the pairs of an earlier run are used again")
        return ["--made_pairs", str(folder)]
    print(f"making {wanted.count} more pairs out of the one (--more_pairs)", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = starting.command("pair_network", "pairs", *options, "--out", str(folder))
    status = subprocess.call(command, env=starting.environment())
    if status == UNFIT:
        print("training on the pair alone", flush=True)
        return []
    if status:
        raise SystemExit(status)
    return ["--made_pairs", str(folder)]


def options_of(given: Given, wanted: MorePairs) -> list[str]:
    """What the verb is told.

    Raises:
        PairError: A part of the pair, the model, or the size is missing.
    """
    sides = {"--content": given.content, "--style": given.style}
    for option, name in sides.items():
        if name is None:
            raise PairError(f"--more_pairs makes pairs out of one: name its image with {option}")
        if Path(name).is_dir():
            raise PairError(f"--more_pairs makes pairs out of one pair; {option} {name} is a folder")
        if not Path(name).is_file():
            raise PairError(f"{option} {name}: no such file or folder")
    if not given.style_prompt:
        raise PairError('--more_pairs needs the style\'s words, for example --words "in ink wash style"')
    options = ["--content", str(given.content), "--content_prompt", caption_of(given)]
    options += ["--style", str(given.style), "--style_prompt", given.style_prompt, "--model", given.model]
    options += ["--count", str(wanted.count), "--resolution", side_of(given.resolution)]
    if wanted.prompts is not None:
        options += ["--prompts", str(wanted.prompts)]
    if is_small(given.model):
        options += SMALL_MODEL
    memory = free_gpu_memory()
    if memory is not None and memory < SMALL_CARD:
        options += ["--low_memory"]
    return options


def caption_of(given: Given) -> str:
    """The content image's own caption, or the one of the command line.

    Raises:
        PairError: There is neither.
    """
    file = caption_file(Path(given.content or ""))
    caption = first_line(file) if file is not None else (given.content_prompt or "").strip()
    if not caption:
        raise PairError(
            '--more_pairs needs a caption of the photo, for example --content_prompt "a photo of a sbu dog"'
        )
    return caption


def side_of(resolution: str | None) -> str:
    """The first side of --resolution, which may be SIZE or WIDTH,HEIGHT.

    Raises:
        PairError: It is missing or no number.
    """
    side = (resolution or "").partition(",")[0].strip()
    if not side.isdecimal():
        raise PairError("--more_pairs needs --resolution, the training size in pixels, for example --resolution 512")
    return side


def digest(given: Given, wanted: MorePairs, options: Sequence[str]) -> str:
    """Changes with the pictures, the prompts, and whatever else the made pairs depend on."""
    prompts = "" if wanted.prompts is None else read_text(wanted.prompts, "--more_prompts")
    found = hashlib.sha256("\0".join([*options, prompts]).encode())
    for name in (given.content, given.style):
        found.update(Path(name or "").read_bytes())
    return found.hexdigest()[:8]
