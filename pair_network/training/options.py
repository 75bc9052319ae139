"""The plug-in's own options, the same on every host."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pair_network.errors import PairError, printable
from pair_network.options import add_options, one_line, option

from .objective import SCHEDULES

LONGEST_NAME = 200  # bytes: systems allow 255, and steps and endings stand behind
FITS = ("error", "crop", "pad")
NOT_ON_MUSUBI = "on musubi-tuner every pair has a content branch of its own; leave it out"
pair_training = partial(option, group="pair training")


@dataclass(frozen=True)
class PairOptions:
    """The plug-in's own options, the same on every host."""

    content: str | None = pair_training(
        None, "content image, or a folder of them (needs --style)", metavar="IMAGE_OR_DIR"
    )
    style: str | None = pair_training(
        None, "the same image in the style, or a folder of them (needs --content)", metavar="IMAGE_OR_DIR"
    )
    content_prompt: str | None = pair_training(
        None, 'caption of the content images, e.g. "a photo of a sbu dog"; caption files win over it', one_line
    )
    style_prompt: str | None = pair_training(
        None,
        'words added to the content caption for the style, e.g. "in digital art style"; also the trigger words',
        one_line,
    )
    made_pairs: str | None = pair_training(
        None, "folder that the verb pairs has written: its pairs are trained on beside the real one", metavar="DIR"
    )
    fit: str = pair_training(
        "error",
        "two images whose shapes differ by more than 2 %: refuse, crop the wider one, or pad the narrower one",
        choices=FITS,
    )
    background: str = pair_training("white", "colour under transparent parts and around padded images")
    unchecked: bool = pair_training(False, "train though the check before the run found an error in the pairs")
    style_start_step: int | None = pair_training(
        None, "number of content-only steps at the start", int, default="a third of the run"
    )
    pair_schedule: str = pair_training(
        "joint",
        "after the start: both losses in every step, or style and content steps in turn (about half the memory)",
        choices=SCHEDULES,
    )
    sample_style_scale: float = pair_training(
        3.0, "style guidance scale of the previews (the paper's lambda_style)", float
    )
    sample_style_start: float = pair_training(
        0.2, "share of the previews' sampling steps that run without style (0 to 1; the paper: 10 of 50)", float
    )
    sample_cfg_end: float = pair_training(
        1.0,
        "share of the previews' sampling steps after which style guidance runs without CFG (0 to 1; 1: never)",
        float,
    )


def check_name(name: str | None) -> None:
    """Raises PairError where no file can have the --output_name on every system; none is the host's own."""
    name = name or ""
    found = next((character for character in name if character in '/\\:*?"<>|' or ord(character) < 32), None)
    wrong = (
        f"holds {found!r}" if found
        else "has no letter" if name and not name.strip(". ")
        else f"is longer than {LONGEST_NAME} bytes" if len(os.fsencode(name)) > LONGEST_NAME
        else ""
    )  # fmt: skip
    if wrong:
        shown = printable(name, 60)
        raise PairError(
            f"--output_name {shown!r} {wrong}: give a file name without folders; set --output_dir for those"
        )


class HostOptions(Protocol):
    """What pair training reads of the options of any host."""

    @property
    def content(self) -> str | None: ...
    @property
    def style(self) -> str | None: ...
    @property
    def content_prompt(self) -> str | None: ...
    @property
    def style_prompt(self) -> str | None: ...
    @property
    def made_pairs(self) -> str | None: ...
    @property
    def fit(self) -> str: ...
    @property
    def background(self) -> str: ...
    @property
    def unchecked(self) -> bool: ...
    @property
    def output_dir(self) -> str: ...
    @property
    def output_name(self) -> str | None: ...
    @property
    def dataset_config(self) -> object: ...
    @property
    def dataset_repeats(self) -> int: ...
    @property
    def network_module(self) -> str: ...
    @property
    def network_args(self) -> Sequence[str] | None: ...
    @property
    def network_weights(self) -> str | None: ...
    @property
    def dim_from_weights(self) -> bool: ...
    @property
    def style_start_step(self) -> int | None: ...
    @property
    def pair_schedule(self) -> str: ...
    @property
    def max_train_steps(self) -> int: ...
    @property
    def sample_style_scale(self) -> float: ...


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of pair training to a host's parser."""
    add_options(parser, PairOptions)


def pair_network_module(given: str | None) -> str:
    """The network module of pair training, for hosts that leave it to the command line.

    Raises:
        PairError: Another one was given.
    """
    if given not in (None, "", "pair_network"):
        raise PairError(f"--network_module {given}: pair training needs pair_network; remove the option")
    return "pair_network"


def key_values(network_args: Sequence[str] | None) -> dict[str, str | None]:
    """The --network_args by key.

    Raises:
        PairError: One is not of the form KEY=VALUE.
    """
    found: dict[str, str | None] = {}
    for entry in network_args or ():
        key, separator, value = entry.partition("=")
        if not separator:
            raise PairError(f"--network_args: {entry!r} is not KEY=VALUE")
        found[key] = value
    return found


def check_preview_options(args: HostOptions) -> None:
    """Raises PairError where an option of the previews has no meaning, before anything is loaded."""
    for name in ("sample_style_start", "sample_cfg_end"):
        if not 0 <= getattr(args, name) <= 1:
            raise PairError(f"--{name} {getattr(args, name)}: a share of the steps, from 0 to 1")
    if not math.isfinite(args.sample_style_scale):
        raise PairError(f"--sample_style_scale {args.sample_style_scale}: a number is needed")


def check_one_part(unet_only: bool, text_encoder_only: bool) -> None:
    """Raises PairError where both switches for one part of the model are given."""
    if unet_only and text_encoder_only:
        raise PairError("--network_train_unet_only and --network_train_text_encoder_only exclude each other; keep one")


def style_words(style_caption: str, content_caption: str) -> str:
    """What the style caption adds to the content caption, or "" when it is not an addition."""
    if style_caption.startswith(content_caption):
        return style_caption.removeprefix(content_caption).strip(" ,")
    return ""
